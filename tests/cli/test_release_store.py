"""slmops release: push, pull, channels, rm, gc, diff and bom, as a person types them."""

import json
import shutil
from dataclasses import replace

import pytest

from slmops.artifact import description, golden, sign
from slmops.artifact.golden import Golden
from slmops.registry import served
from slmops.registry.layout import Layout
from slmops.registry.release import publish
from slmops.rollout.history import History


@pytest.fixture
def two(released, home, tmp_path):
    """parrot:1.0.0 and parrot:1.1.0, whose model, golden prompts and figures are others."""
    folder = tmp_path / "artifact"
    said = description.parse((folder / "artifact.json").read_bytes())
    source = {"id": "org/parrot", "digest": f"sha256:{'a' * 64}", "license": "mit", "gguf": "0.17.1"}
    new = replace(said, version="1.1.0", type="Q4_0", measured={"kl_mean": 0.02, "top1": 0.97}, source=source)
    (folder / "artifact.json").write_bytes(description.render(new))
    (folder / "golden.jsonl").write_text(
        golden.render([Golden(prompt="One and one?", expect="2"), Golden(prompt="New?", expect="yes")])
    )
    (folder / "model.gguf").write_bytes(b"w" * 3000)
    key = home / "keys" / "release"
    signed = publish(Layout(home / "registry"), {"local": folder}, created="2026-01-02T00:00:00Z", key=key)
    return released.signed, signed


@pytest.fixture
def shelf(tmp_path):
    """A folder that is no registry yet."""
    return f"file://{tmp_path / 'shelf'}"


def listed(slmops):
    return [row["release"] for row in json.loads(slmops("release", "list", "-o", "json").out)]


@pytest.mark.usefixtures("released")
def test_a_release_is_pushed_removed_and_pulled_again(slmops, shelf):
    pushed = slmops("release", "push", "parrot:1.0.0", shelf)
    assert (pushed.code, pushed.err) == (0, "")
    assert pushed.out.startswith(f"parrot:1.0.0 is in {shelf} as ")
    assert slmops("release", "rm", "parrot:1.0.0", "-y").code == 0
    assert listed(slmops) == []
    freed = slmops("release", "gc")
    assert freed.out.startswith("Freed ")
    assert freed.out.endswith("in 9 files.\n")

    pulled = slmops("release", "pull", "parrot:1.0.0", shelf, "-o", "json")

    assert json.loads(pulled.out)["release"] == "parrot:1.0.0"
    assert slmops("release", "verify", "parrot:1.0.0").code == 0


@pytest.mark.usefixtures("released")
def test_a_release_of_somebody_else_is_not_pulled(slmops, shelf, home, tmp_path, monkeypatch):
    slmops("release", "push", "parrot:1.0.0", shelf)
    monkeypatch.setenv("SLMOPS_HOME", str(tmp_path / "stranger"))
    sign.make_key(tmp_path / "stranger" / "keys" / "release", "another")

    ended = slmops("release", "pull", "parrot:1.0.0", shelf)

    assert ended.code == 7
    assert "the signature does not hold" in ended.err
    assert "slmops trust import FILE" in ended.err
    assert listed(slmops) == []
    assert home.exists()


@pytest.mark.usefixtures("released")
def test_a_home_that_trusts_nobody_is_told_to_import_before_it_pulls(slmops, shelf, tmp_path, monkeypatch):
    slmops("release", "push", "parrot:1.0.0", shelf)
    monkeypatch.setenv("SLMOPS_HOME", str(tmp_path / "empty"))

    ended = slmops("release", "pull", "parrot:1.0.0", shelf)

    assert ended.code == 1
    assert "slmops trust import FILE" in ended.err
    assert "init" not in ended.err


@pytest.mark.usefixtures("two")
def test_counters_are_shown(slmops):
    listed_ = json.loads(slmops("release", "list", "-o", "json").out)
    assert [row["counter"] for row in listed_] == [2, 1]
    assert json.loads(slmops("release", "show", "parrot:1.1.0", "-o", "json").out)["counter"] == 2
    assert "counter 2" in slmops("release", "show", "parrot:1.1.0").out


@pytest.mark.usefixtures("two")
def test_a_channel_moves_and_goes_along(slmops, shelf, home):
    assert slmops("release", "channel", "set", "stable", "parrot:1.0.0").code == 0
    said = slmops("release", "channel", "set", "stable", "parrot:1.1.0")
    assert said.out == "parrot@stable stands for parrot:1.1.0.\n"
    shown = json.loads(slmops("release", "channel", "show", "parrot@stable", "-o", "json").out)
    assert [move["release"] for move in shown] == ["parrot:1.1.0", "parrot:1.0.0"]

    assert "parrot@stable (parrot:1.1.0) is in" in slmops("release", "push", "parrot@stable", shelf).out
    shutil.rmtree(home / "registry")
    assert slmops("release", "pull", "parrot@stable", shelf).code == 0

    (row,) = json.loads(slmops("release", "channel", "list", "-o", "json").out)
    assert (row["channel"], row["release"], row["moves"]) == ("parrot@stable", "parrot:1.1.0", 1)
    assert "parrot:1.1.0" in slmops("release", "show", "parrot@stable").out


@pytest.mark.usefixtures("two")
def test_what_a_channel_names_is_not_removed(slmops):
    slmops("release", "channel", "set", "stable", "parrot:1.0.0")

    ended = slmops("release", "rm", "parrot:1.0.0", "-y")

    assert ended.code == 1
    assert "parrot:1.0.0 stays: parrot@stable stands for it" in ended.err


def test_old_releases_go_but_none_that_a_device_may_return_to(slmops, two, home):
    old, _ = two
    artifact = old.release.entry("local").blob.digest
    served.record(home / "served.json", 2e9, {"office/edge-1": [artifact]})

    dry = json.loads(slmops("release", "gc", "--keep", "1", "--dry-run", "-o", "json").out)
    assert dry["kept"]["parrot:1.0.0"] == "office/edge-1 serves it or may return to it"
    assert slmops("release", "gc", "--keep", "1").code == 0
    assert listed(slmops) == ["parrot:1.1.0", "parrot:1.0.0"]

    asked = slmops("release", "gc", "--keep", "1", "--forget", "office/edge-1")
    assert asked.code == 2
    assert "Let parrot:1.0.0 go?" in asked.err
    assert slmops("release", "gc", "--keep", "1", "-y").code == 0
    assert listed(slmops) == ["parrot:1.1.0"]


def test_what_a_rollout_brought_since_a_device_was_asked_stays(slmops, two, home):
    old, new = two
    history = History(home / "rollouts.sqlite")
    for signed, state in ((old, "waiting"), (old, "committed"), (new, "committed")):
        number = history.begin("office", signed.release.reference, signed.blob.digest, [[], ["edge-1"]])
        history.told(number, "edge-1", state)
    history.close()

    stays = json.loads(slmops("release", "gc", "--keep", "1", "--dry-run", "-o", "json").out)["kept"]
    assert stays["parrot:1.0.0"] == "office/edge-1 got it in rollout 2"

    served.record(home / "served.json", 4e9, {"office/edge-1": [new.release.entry("local").blob.digest]})
    gone = json.loads(slmops("release", "gc", "--keep", "1", "--dry-run", "-o", "json").out)["gone"]
    assert gone == ["parrot:1.0.0"]


@pytest.mark.usefixtures("two")
def test_two_releases_are_compared(slmops):
    (found,) = json.loads(slmops("release", "diff", "parrot:1.0.0", "parrot:1.1.0", "-o", "json").out)[
        "profiles"
    ]

    assert {file["name"] for file in found["files"]} == {"artifact.json", "golden.jsonl", "model.gguf"}
    assert found["facts"]["type"] == {"before": "Q8_0", "after": "Q4_0"}
    assert found["facts"]["measured.kl_mean"] == {"before": 0.0012, "after": 0.02}
    assert found["golden"] == {"added": ["New?"], "removed": [], "changed": ["One and one?"]}
    assert found["sends"]["lacking"] == found["sends"]["whole"] > 3000
    assert found["sends"]["delta"] is None
    shown = slmops("release", "diff", "parrot:1.0.0", "parrot:1.1.0").out
    order = [shown.index(what) for what in ("an update sends", "model.gguf", "type", "measured.kl_mean")]
    assert order == sorted(order)
    assert "a" * 13 not in shown
    for words in ("local: 3 files differ, 0 do not", "golden prompts answered otherwise", "an update sends"):
        assert words in shown


@pytest.mark.usefixtures("two")
def test_a_release_says_where_it_comes_from_and_what_it_is_made_of(slmops):
    shown = slmops("release", "show", "parrot:1.1.0")
    assert "from org/parrot, aaaaaaaaaaaa, license mit; built with gguf 0.17.1" in shown.out

    bill = json.loads(slmops("release", "bom", "parrot:1.1.0").out)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert bill["metadata"]["component"]["name"] == "parrot"


@pytest.mark.usefixtures("released")
@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("push", "parrot:9", "file:///tmp/x"), 1, "no release parrot:9"),
        (("push", "parrot:1.0.0", "shelf"), 2, "expected oci://host/repository"),
        (("pull", "parrot", "file:///tmp/x"), 2, "expected NAME:VERSION"),
        (("pull", "parrot:1@x", "file:///tmp/x"), 2, "release name"),
        (("pull", "parrot@1", "file:///tmp/x"), 2, "expected NAME@CHANNEL"),
        (("push", "parrot:1.0.0", "file://tmp"), 2, "three slashes"),
        (("channel", "set", "Stable", "parrot:1.0.0"), 2, "expected NAME@CHANNEL"),
        (("channel", "show", "parrot@beta"), 1, "no channel parrot@beta"),
        (("rm", "parrot:9", "-y"), 1, "no release parrot:9"),
        (("rm", "parrot:1.0.0"), 2, "no terminal to ask on"),
        (("gc", "--keep", "0"), 2, "greater than or equal to 1"),
        (("push", "parrot:1.0.0", "file:///proc/foo"), 2, "file:///proc/foo cannot be written"),
        (("push", "parrot:1.0.0", "nowhere://x/y"), 2, "oci://host/repository"),
        (("push", "parrot:1.0.0", "ftp://127.0.0.1:1/y"), 6, "does not answer"),
        (("pull", "parrot:1.0.0", "file:///no/such"), 2, "no registry in /no/such: there is no such folder"),
        (
            ("diff", "parrot:1.0.0", "parrot:1.0.0", "--profile", "x"),
            1,
            "not both have the profile x: parrot:1.0.0 has local",
        ),
    ],
)
def test_what_cannot_be_done_is_said(slmops, words, code, says):
    ended = slmops("release", *words)

    assert ended.code == code
    assert says in ended.err
