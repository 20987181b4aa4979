"""A recipe file: what it says, where its paths lead, and what it may not say."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops import document
from slmops.build.load_recipe import load_recipe, save_recipe
from slmops.build.quality import QUALITIES, Quality
from slmops.build.recipe import Calibration, Evaluation, Recipe, Target, target
from slmops.errors import DocumentError

WHOLE = """\
name: home-commands
version: 1.2.0
model: ../models/home
profiles:
  - local
  - raspberry-pi-5:gguf:q4_k_m
  - {profile: boards/kitchen.yaml, format: onnx, type: INT8}
quality: {kl: 0.02, enough: 0.001}
mixed: false
calibration: {file: texts/commands.txt, tokens: 4096}
evaluation: {file: texts/held_out.jsonl, tokens: 1024}
golden: golden.jsonl
converter: /opt/llama.cpp
max_fallback: 0.25
jobs: 2
memory: 4GiB
"""

words = st.text(min_size=1, max_size=12)
tokens = st.integers(64, 1 << 20)
recipes = st.builds(
    Recipe,
    name=words,
    version=words,
    model=words,
    profiles=st.lists(
        st.builds(Target, profile=words, format=st.sampled_from(["auto", "gguf", "onnx"]), type=words),
        min_size=1,
        max_size=3,
    ),
    quality=st.one_of(
        st.none(),
        st.sampled_from(list(QUALITIES)),
        st.builds(Quality, kl=st.floats(1, 10), top1=st.floats(0, 1), enough=st.floats(0, 1)),
    ),
    mixed=st.booleans(),
    calibration=st.one_of(st.none(), st.builds(Calibration, file=words, tokens=tokens)),
    evaluation=st.builds(Evaluation, file=st.one_of(st.none(), words), tokens=tokens),
    golden=st.one_of(st.none(), words),
    converter=st.one_of(st.none(), words),
    max_fallback=st.floats(0, 1),
    jobs=st.integers(1, 256),
    memory=st.one_of(st.none(), st.integers(0, 1 << 50)),
)


@pytest.fixture
def written(tmp_path):
    """Return what writes a recipe file."""

    def write(text):
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return path

    return write


@given(recipes)
def test_what_is_written_reads_back_as_the_same_recipe(recipe):
    assert document.loads(document.dumps(recipe), Recipe, "recipe.yaml") == recipe


def test_a_file_says_all_of_it_and_its_paths_are_seen_from_the_file(written, tmp_path):
    (tmp_path.parent / "models" / "home").mkdir(parents=True, exist_ok=True)

    found = load_recipe(written(WHOLE))

    assert (found.name, found.version) == ("home-commands", "1.2.0")
    assert found.model == str(tmp_path / "../models/home")
    assert found.profiles == (
        Target(profile="local"),
        Target(profile="raspberry-pi-5", format="gguf", type="Q4_K_M"),
        Target(profile=str(tmp_path / "boards/kitchen.yaml"), format="onnx", type="INT8"),
    )
    assert found.gate == Quality(kl=0.02, enough=0.001)
    assert found.calibration == Calibration(file=str(tmp_path / "texts/commands.txt"), tokens=4096)
    assert found.evaluation == Evaluation(file=str(tmp_path / "texts/held_out.jsonl"), tokens=1024)
    assert (found.golden, found.converter) == (str(tmp_path / "golden.jsonl"), "/opt/llama.cpp")
    assert (found.mixed, found.max_fallback, found.jobs, found.memory) == (False, 0.25, 2, 4 << 30)


def test_a_saved_recipe_means_the_same_from_anywhere(written, tmp_path):
    found = load_recipe(written(WHOLE))
    kept = tmp_path / "kept" / "far" / "recipe.yaml"

    save_recipe(found, kept)

    assert load_recipe(kept) == found
    assert [path.name for path in kept.parent.iterdir()] == ["recipe.yaml"]


def test_a_short_recipe_means_the_usual(written):
    found = load_recipe(written("name: a\nversion: '1'\nmodel: org/name\nprofiles: [local]\n"))

    assert found.model == "org/name"
    assert found.gate == QUALITIES["balanced"]
    assert (found.mixed, found.calibration, found.evaluation) == (True, None, Evaluation())


def test_a_path_from_the_home_folder_stays_one(written, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    (tmp_path / "me" / "model").mkdir(parents=True)
    text = "name: a\nversion: '1'\nmodel: ~/model\nprofiles: [~/board.yaml]\ngolden: ~/golden.jsonl\n"

    found = load_recipe(written(text))

    assert found.model == str(tmp_path / "me/model")
    assert found.golden == str(tmp_path / "me/golden.jsonl")
    assert found.profiles == (Target(profile=str(tmp_path / "me/board.yaml")),)


@pytest.mark.parametrize(
    ("said", "means"),
    [
        ("local", ("local", "auto", "auto")),
        ("local:gguf", ("local", "gguf", "auto")),
        ("local:gguf:Q4_K_M", ("local", "gguf", "Q4_K_M")),
        ("local::q8_0", ("local", "auto", "Q8_0")),
        ("local:onnx:int8", ("local", "onnx", "INT8")),
        ("./kitchen.yaml:auto:auto", ("./kitchen.yaml", "auto", "auto")),
    ],
)
def test_the_short_form_of_a_target_is_the_long_one(said, means):
    assert tuple(target(said).values()) == means
    assert Target(**target(said)) == Target(profile=means[0], format=means[1], type=means[2])


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("jobs: 2", "job: 2", 15, ["job", "jobs"]),
        ("quality: {kl: 0.02, enough: 0.001}", "quality: excellent", 8, ["quality", "excellent"]),
        ("kl: 0.02", "kl: -1", 8, ["kl", "-1"]),
        ("kl: 0.02", "k1: 1", 8, ["k1"]),
        ("tokens: 4096", "tokens: -4096", 10, ["tokens", "-4096"]),
        ("tokens: 1024", "tokens: many", 11, ["tokens", "many"]),
        ("memory: 4GiB", "memory: lots", 16, ["memory", "lots"]),
        ("max_fallback: 0.25", "max_fallback: 25", 14, ["max_fallback", "25"]),
        ("format: onnx", "format: exe", 7, ["format", "exe"]),
        ("  - local", "  - local:exe", 5, ["profiles[0]", "exe"]),
        ("name: home-commands\n", "", None, ["name"]),
    ],
)
def test_what_a_recipe_may_not_say_is_named_with_file_line_and_key(written, old, new, line, words):
    assert old in WHOLE
    path = written(WHOLE.replace(old, new, 1))

    with pytest.raises(DocumentError) as caught:
        load_recipe(path)

    assert str(path) in str(caught.value)
    if line:
        assert f"line {line}" in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_a_recipe_without_profiles_is_refused(written):
    with pytest.raises(DocumentError, match="profiles"):
        load_recipe(written("name: a\nversion: '1'\nmodel: a/b\nprofiles: []\n"))


def test_the_schema_says_every_key_and_what_it_means():
    schema = Recipe.model_json_schema()

    assert set(schema["required"]) == {"name", "version", "model", "profiles"}
    assert all(
        said.get("description") or "$ref" in json.dumps(said) for said in schema["properties"].values()
    )
