"""What differs between two releases, and where an artifact comes from."""

import copy
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.artifact.description import Description
from slmops.artifact.golden import Golden
from slmops.artifact.manifest import Artifact, Blob, Entry, Release
from slmops.registry import lineage
from slmops.registry.bom import Part, bom
from slmops.registry.comparison import Side, compare

DIGESTS = ["sha256:" + mark * 64 for mark in "0123456789abcdef"]
SAID = Description(
    name="demo", version="1", profile="pi", arch="aarch64", format="gguf", type="Q4_0", model="model.gguf",
    architecture="llama", parameters=10, context=64, threads=1, micro_batch=8, memory_bytes=100,
    golden="golden.jsonl", measured={"kl_mean": 0.01, "top1": 0.9, "perplexity": 3.0, "perplexity_low": 2.0,
    "perplexity_high": 4.0},
    source={"id": "org/model", "digest": DIGESTS[1], "revision": "abc", "license": "apache-2.0",
    "calibration": DIGESTS[2], "calibration_tokens": "512", "evaluation": DIGESTS[3], "recipe": DIGESTS[4],
    "gguf": "0.17.1", "slmops": f"0.1.0 {DIGESTS[5]}"},
)  # fmt: skip
CONFIG = Blob("c", DIGESTS[0], 2)


@st.composite
def sides(draw):
    names = draw(st.sets(st.sampled_from(["model.gguf", "README.md", "tokenizer.json"])))
    files = tuple((name, Blob("x", draw(st.sampled_from(DIGESTS)), 7)) for name in sorted(names))
    said = draw(st.none() | st.builds(lambda m, t: replace(SAID, memory_bytes=m, type=t), NUMBER, TYPE))
    asked = draw(st.lists(st.builds(Golden, expect=TYPE, prompt=TYPE), max_size=3))
    return Side(Artifact(CONFIG, files), said, tuple(asked))


NUMBER, TYPE = st.integers(1, 3), st.sampled_from(["Q4_0", "Q8_0"])


@given(sides())
def test_an_artifact_does_not_differ_from_itself(side):
    found = compare("pi", side, side)

    assert (found.files, found.facts, found.lacking, found.sends({})) == ((), (), 0, 0)
    assert (found.golden_added, found.golden_removed, found.golden_changed) == ((), (), ())
    assert found.same == len(side.built.files)


@given(sides(), sides())
def test_swapping_the_two_swaps_what_came_and_what_went(one, other):
    there, back = compare("pi", one, other), compare("pi", other, one)

    assert (there.golden_added, there.golden_removed) == (back.golden_removed, back.golden_added)
    assert {f.name: (f.before, f.after) for f in there.files} == {
        f.name: (f.after, f.before) for f in back.files
    }
    assert {f.what: (f.before, f.after) for f in there.facts} == {
        f.what: (f.after, f.before) for f in back.facts
    }


@given(sides(), sides(), st.dictionaries(st.sampled_from(DIGESTS), st.integers(0, 20)))
def test_an_update_never_sends_more_than_the_artifact(one, other, deltas):
    found = compare("pi", one, other)

    assert 0 <= found.sends(deltas) <= found.lacking <= found.whole


def test_a_delta_for_a_file_that_is_there_under_another_name_saves_nothing():
    kept, moved = (Blob("x", DIGESTS[0], 9), Blob("x", DIGESTS[1], 9))
    before = Side(Artifact(CONFIG, (("a", kept), ("b", moved))), None)
    after = Side(Artifact(CONFIG, (("a", kept), ("b", kept))), None)

    assert compare("pi", before, after).sends({kept.digest: 3}) == 0


def test_a_question_that_is_to_be_answered_otherwise_is_named():
    side = Side(Artifact(CONFIG, ()), SAID, (Golden("4", prompt="2+2="), Golden("x", prompt="gone")))
    after = replace(side, golden=(Golden("5", prompt="2+2="), Golden("y", prompt="new")))

    found = compare("pi", side, after)

    assert (found.golden_added, found.golden_removed, found.golden_changed) == (
        ("new",),
        ("gone",),
        ("2+2=",),
    )


def test_figures_and_lineage_are_compared_too():
    after = replace(SAID, measured={"kl_mean": 0.02, "top1": 0.9}, source={**SAID.source, "revision": "def"})
    found = compare("pi", Side(Artifact(CONFIG, ()), SAID), Side(Artifact(CONFIG, ()), after))

    facts = {fact.what: (fact.before, fact.after) for fact in found.facts}
    assert facts["measured.kl_mean"] == (0.01, 0.02)
    assert facts["measured.perplexity"] == (3.0, None)
    assert facts["source.revision"] == ("abc", "def")
    assert "measured.top1" not in facts


@given(st.dictionaries(st.text(max_size=12), st.text(max_size=5)))
def test_every_word_of_where_it_comes_from_is_in_the_lineage_once(source):
    found = lineage.of(replace(SAID, source=source))

    parts = (found.source, found.data, found.build, found.tools)
    assert {key: value for part in parts for key, value in part.items()} == source
    assert sum(map(len, parts)) == len(source)


def test_the_lineage_says_source_data_build_and_tools():
    found = lineage.of(SAID)

    assert set(found.source) == {"id", "digest", "revision", "license"}
    assert set(found.data) == {"calibration", "calibration_tokens", "evaluation"}
    assert set(found.build) == {"recipe"}
    assert set(found.tools) == {"gguf", "slmops"}


def bill():
    """Return the bill of materials of a release of two artifacts."""
    files = (("README.md", Blob("text/markdown", DIGESTS[6], 5)), ("model.gguf", Blob("x", DIGESTS[7], 50)))
    parts = [
        Part("pi", Blob("m", DIGESTS[8], 1), Artifact(CONFIG, files), SAID),
        Part("nano", Blob("m", DIGESTS[9], 1), Artifact(CONFIG, files), replace(SAID, profile="nano")),
    ]
    entries = tuple((part.profile, Entry(part.blob, "aarch64")) for part in parts)
    return bom(Release("demo", "1", "2026-01-01T00:00:00Z", entries), Blob("i", DIGESTS[10], 1), parts)


def test_the_bill_of_materials_is_the_same_each_time():
    assert json.dumps(bill()) == json.dumps(copy.deepcopy(bill()))


def test_the_bill_names_models_files_data_source_and_tools_with_their_hashes():
    said = bill()

    kinds = [component["type"] for component in said["components"]]
    assert kinds == ["machine-learning-model"] * 3 + ["data"] * 2
    model = said["components"][0]
    assert [file["hashes"][0]["content"] for file in model["components"]] == ["6" * 64, "7" * 64]
    metrics = {one["type"]: one for one in model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]}
    assert metrics["perplexity"]["confidenceInterval"] == {"lowerBound": "2", "upperBound": "4"}
    assert model["licenses"] == [{"license": {"name": "apache-2.0"}}]
    tools = {tool["name"]: tool["version"] for tool in said["metadata"]["tools"]["components"]}
    assert tools == {"gguf": "0.17.1", "slmops": "0.1.0"}
    depends = {each["ref"]: each["dependsOn"] for each in said["dependencies"]}
    assert depends[DIGESTS[10]] == [DIGESTS[8], DIGESTS[9]]
    assert depends[DIGESTS[8]] == sorted([f"source/{DIGESTS[1]}", DIGESTS[2], DIGESTS[3]])


def test_every_reference_in_the_bill_is_to_something_in_it():
    said = bill()
    known = {said["metadata"]["component"]["bom-ref"]}
    ahead = list(said["components"])
    while ahead:
        component = ahead.pop()
        assert component["bom-ref"] not in known
        known.add(component["bom-ref"])
        ahead += component.get("components", [])

    assert {ref for each in said["dependencies"] for ref in (each["ref"], *each["dependsOn"])} <= known
    for component in said["components"]:
        datasets = component.get("modelCard", {}).get("modelParameters", {}).get("datasets", [])
        assert {data["ref"] for data in datasets} <= known


@pytest.mark.journey
def test_the_bill_holds_by_the_official_schema(tmp_path):
    python = Path(os.environ.get("SLMOPS_CYCLONEDX_PYTHON", sys.executable))
    script = """
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
errors = JsonStrictValidator(SchemaVersion.V1_6).validate_str(open(sys.argv[1]).read())
sys.exit(f"not valid: {errors}" if errors else 0)
"""
    lacks = subprocess.run([python, "-c", "import cyclonedx, jsonschema"], capture_output=True, check=False)
    if lacks.returncode:
        pytest.skip(
            "cyclonedx-python-lib[json-validation] is not installed: set SLMOPS_CYCLONEDX_PYTHON to a Python "
            "that has it"
        )
    (tmp_path / "bom.json").write_text(json.dumps(bill()))

    done = subprocess.run([python, "-c", script, tmp_path / "bom.json"], capture_output=True, check=False)

    assert (done.returncode, done.stderr) == (0, b"")
