"""What a person may give by mistake ends in a sentence and an exit code, not in a traceback."""

from pathlib import Path

import pytest

QUANTIZE = ["quantize", ".", "--profile", "local", "--name", "a", "--version", "1"]


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Work in a folder with a file that is no text."""
    monkeypatch.chdir(tmp_path)
    Path("binary").write_bytes(b"\xff\xfe\x00")
    Path("folder").mkdir()


@pytest.mark.usefixtures("config")
@pytest.mark.parametrize(
    "words",
    [
        ("status", "folder"),
        ("status", "binary"),
        ("profile", "show", "./folder"),
        ("device", "trust", ""),
        ("device", "trust", "localhost:ssh"),
        ("device", "trust", "-y", "localhost:99999"),
    ],
)
def test_a_wrong_argument_is_a_usage_error(slmops, words):
    ended = slmops(*words)

    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("error SLM-")


@pytest.mark.parametrize(
    "golden",
    [
        "nowhere.jsonl",
        "folder",
        "binary",
    ],
)
@pytest.mark.usefixtures("config")
def test_golden_prompts_that_cannot_be_read_are_named(golden):
    from slmops.build.recipe import Recipe  # noqa: PLC0415 - the command line imports the build room late
    from slmops.cli.prepare import golden_of  # noqa: PLC0415
    from slmops.errors import DocumentError  # noqa: PLC0415

    recipe = Recipe(name="a", version="1", model="model", profiles=["local"], golden=golden)
    with pytest.raises(DocumentError, match=golden):
        golden_of(recipe)


@pytest.mark.parametrize(
    "words", [("release", "list"), ("rollout", "list"), ("rollout", "show")], ids=" ".join
)
def test_a_home_that_is_a_file_is_named(slmops, home, words):
    home.write_text("not a folder")

    ended = slmops(*words)

    assert ended.code == 1
    assert str(home) in ended.err


def test_doctor_finds_a_home_that_is_a_file(slmops, home):
    home.write_text("not a folder")

    assert slmops("doctor").code == 1


def test_a_history_that_is_no_database_is_named(slmops, home):
    home.mkdir()
    (home / "rollouts.sqlite").write_text("not a database, and longer than nothing")

    ended = slmops("rollout", "list")

    assert ended.code == 1
    assert "rollouts.sqlite" in ended.err


@pytest.mark.parametrize(
    "index",
    [
        "not json",
        "{}",
    ],
)
def test_a_registry_whose_index_has_rotted_is_named(slmops, home, index):
    (home / "registry").mkdir(parents=True)
    (home / "registry" / "index.json").write_text(index)

    ended = slmops("release", "list")

    assert ended.code == 7
    assert "index.json" in ended.err
