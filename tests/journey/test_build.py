"""Quantising as a person does it: what is refused, what is built once, and what is built again."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from slmops.artifact import description

pytestmark = [pytest.mark.journey, pytest.mark.timeout(300)]
ROOT = Path(__file__).parents[2]
DEMO = ROOT / "demo/model"
SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "head_dim": 16}
NAMED = ["--name", "odd", "--profile", "x86-64-v3"]


@pytest.fixture(scope="module")
def odd(tmp_path_factory) -> Path:
    """A random model whose rows 256 does not divide, with the words of the demo model."""
    folder = tmp_path_factory.mktemp("odd") / "model"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copyfile(DEMO / name, folder / name)
    config = {**json.loads((DEMO / "config.json").read_text()), **SIZES}
    (folder / "config.json").write_text(json.dumps(config))
    hidden, inner, keys = 64, 128, 32
    block = {
        "self_attn.q_proj": (hidden, hidden), "self_attn.o_proj": (hidden, hidden),
        "self_attn.k_proj": (keys, hidden), "self_attn.v_proj": (keys, hidden),
        "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden), "mlp.down_proj": (hidden, inner),
    }  # fmt: skip
    shapes = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    shapes |= {f"model.layers.{i}.{name}.weight": shape for i in range(2) for name, shape in block.items()}
    dice = np.random.default_rng(5)
    weights = {name: dice.standard_normal(shape).astype(np.float32) / 12 for name, shape in shapes.items()}
    norms = [f"layers.{i}.{name}_layernorm" for i in range(2) for name in ("input", "post_attention")]
    weights |= {f"model.{name}.weight": np.ones(hidden, np.float32) for name in (*norms, "norm")}
    save_file(weights, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory, odd, operator_of) -> Path:
    """A home in which odd:1.0.0 was built as Q5_0."""
    home = tmp_path_factory.mktemp("builder")
    operator_of(home)("quantize", odd, *NAMED, "--version", "1.0.0", "--type", "Q5_0")
    return home


@pytest.fixture
def builder(home, tmp_path, operator_of):
    """An operator who has odd:1.0.0, and the cache of its build."""
    shutil.copytree(home, tmp_path / "home", symlinks=True)
    return operator_of(tmp_path / "home")


def cached(builder):
    return sorted(json.dumps(step, sort_keys=True) for step in builder.json("cache", "list"))


def models(builder, release):
    (artifact,) = builder.json("release", "show", release)["artifacts"]
    return artifact


def test_a_label_that_would_lie_is_refused_and_a_type_that_fits_is_named(builder, odd):
    told = builder("quantize", odd, *NAMED, "--version", "2.0.0", "--type", "Q4_K_M", exits=1)

    assert "SLM-BUILD gguf Q4_K_M would be that in name only: " in told
    assert "because 256 does not divide its rows" in told
    assert "Ask for Q5_0, which this model's rows allow" in told
    assert len(builder.json("release", "list")) == 1


def test_it_is_built_all_the_same_where_that_is_allowed_and_the_truth_is_told(builder, odd):
    told = builder("quantize", odd, *NAMED, "--version", "2.0.0", "--type", "Q4_K_M", "--max-fallback", "1")

    assert "of the weights cannot be Q4_K_M" in told
    assert models(builder, "odd:2.0.0")["type"] == "Q4_K_M"


def test_where_nothing_is_good_enough_nothing_is_released(builder, odd, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"name: odd\nversion: 2.0.0\nmodel: {odd}\n"
        "profiles: ['x86-64-v3:gguf:Q5_0']\nquality: {kl: 1.0e-9}\n"
    )

    told = builder("quantize", "--recipe", recipe, exits=1)

    assert "SLM-QUALITY nothing that fits x86-64-v3 keeps the gate; nearest comes gguf Q5_0: " in told
    assert "at most 1e-09 allowed" in told
    assert "--quality small" in told
    assert len(builder.json("release", "list")) == 1


def test_a_second_build_comes_from_the_cache_and_is_the_same_model(builder, odd):
    before = cached(builder)

    builder("quantize", odd, *NAMED, "--version", "1.0.1", "--type", "Q5_0")

    assert cached(builder) == before
    one, two = (models(builder, f"odd:{version}") for version in ("1.0.0", "1.0.1"))
    assert one["measured"] == two["measured"]
    assert one["files"]["model.gguf"] == two["files"]["model.gguf"]


def test_a_recipe_builds_what_it_says_and_the_release_keeps_it(builder, odd, tmp_path):
    text = tmp_path / "texts" / "held_out.txt"
    text.parent.mkdir()
    text.write_text("turn the kitchen lamp to forty percent\n" * 40)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"name: odd\nversion: 3.0.0\nmodel: {odd}\nprofiles: ['x86-64-v3:gguf:q4_0']\n"
        "calibration: {file: texts/held_out.txt, tokens: 128}\n"
        "evaluation: {file: texts/held_out.txt, tokens: 128}\n"
    )

    answer = builder.json("quantize", "--recipe", recipe)

    (profile,) = answer["profiles"]
    assert (answer["release"], profile["chosen"]) == ("odd:3.0.0", "gguf Q4_0")
    kept = Path(answer["report"])
    assert json.loads((kept / "report.json").read_text())["profiles"] == answer["profiles"]
    assert "<html" in (kept / "report.html").read_text()
    assert "texts/held_out.txt" in (kept / "recipe.yaml").read_text()
    assert {"importance", "model", "measure", "golden"} <= {s["step"] for s in builder.json("cache", "list")}
    builder("release", "verify", "odd:3.0.0", "--rebuild")


def test_types_are_chosen_among_those_the_rows_allow_and_mixed(builder, odd):
    answer = builder.json(
        "quantize", odd, *NAMED, "--version", "4.0.0", "--format", "gguf", "--tokens", "128"
    )

    (profile,) = answer["profiles"]
    said = {(one["type"], one["verdict"]) for one in profile["candidates"]}
    built = {one["type"] for one in profile["candidates"] if one["measured"]}
    assert {"F16", "Q8_0", "Q5_1", "Q4_0", "MIXED"} <= built
    assert any(kind == "Q4_K_M" and "because 256 does not divide" in verdict for kind, verdict in said)
    (chosen,) = (one for one in profile["candidates"] if one["verdict"] == "chosen")
    assert chosen["measured"]["kl_mean"] <= profile["gate"]["kl"]
    assert models(builder, "odd:4.0.0")["type"] == chosen["type"]
    told = builder("release", "verify", "odd:4.0.0", "--rebuild")
    assert "Built again, bit for bit: x86-64-v3." in told


def test_a_release_is_built_again_bit_for_bit(builder):
    before = cached(builder)

    told = builder("release", "verify", "odd:1.0.0", "--rebuild")

    assert "odd:1.0.0 is whole" in told
    assert "Built again, bit for bit: x86-64-v3." in told
    assert cached(builder) == before
    assert [path.name for path in builder.home.glob(".*")] == []


def test_a_source_that_has_changed_does_not_build_the_release(builder, odd, tmp_path):
    shutil.copytree(odd, tmp_path / "model")
    builder("quantize", tmp_path / "model", *NAMED, "--version", "1.0.1", "--type", "Q5_0")
    weights = load_file(tmp_path / "model/model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"][0, :32] *= 2
    save_file(weights, tmp_path / "model/model.safetensors")

    told = builder("release", "verify", "odd:1.0.1", "--rebuild", exits=7)

    assert "odd:1.0.1 for x86-64-v3: built again its model is " in told
    assert "SLM-INTEGRITY" in told


def test_the_cache_is_listed_and_cleared_and_releases_stay_whole(builder):
    steps = builder.json("cache", "list")
    told = builder("cache", "list")
    assert {step["step"] for step in steps} == {"model", "measure", "golden", "references"}
    assert "gguf Q5_0" in told
    assert f"{len(steps)} steps" in told

    assert "Freed " in builder("cache", "clear", "--yes")

    assert builder.json("cache", "list") == []
    builder("release", "verify", "odd:1.0.0")


def test_an_artifact_says_what_it_was_made_of(builder):
    blobs = [path.read_bytes() for path in (builder.home / "registry/blobs/sha256").iterdir()]
    (said,) = [description.parse(blob) for blob in blobs if b'"parameters"' in blob]

    assert said.type == "Q5_0"
    assert {"id", "digest", "llama-cpp-python", "slmops"} <= said.source.keys()
    assert said.source["id"] == "model"


def nudged(odd, folder):
    """Return a copy of the model with every weight moved a little, as an update of it has."""
    shutil.copytree(odd, folder)
    dice = np.random.default_rng(6)
    weights = load_file(folder / "model.safetensors")
    for name, value in weights.items():
        weights[name] = value + 0.002 * value.std() * dice.standard_normal(value.shape, np.float32)
    save_file(weights, folder / "model.safetensors")
    return folder


def test_an_update_gets_the_types_and_the_scales_of_what_devices_have(builder, odd, tmp_path):
    model = nudged(odd, tmp_path / "update")
    words = ["--version", "1.1.0", "--delta-base", "odd:1.0.0", "--tokens", "128", "--type", "Q5_0"]
    answer = builder.json("quantize", model, *NAMED, *words)

    (profile,) = answer["profiles"]
    (candidate,) = profile["candidates"]
    reused = profile["delta_base"]
    assert candidate["type"] == "Q5_0"
    assert candidate["tolerance"] == reused["taken"]
    assert candidate["base"].startswith("sha256:")
    assert len(reused["tried"]) > 1
    blobs = [path.read_bytes() for path in (builder.home / "registry/blobs/sha256").iterdir()]
    said = [description.parse(blob) for blob in blobs if b'"parameters"' in blob]
    (update,) = (one for one in said if one.version == "1.1.0")
    assert update.measured["reused_share"] > 0.5
    assert update.measured["kl_mean_own_scales"] == reused["kl_mean"]
    assert update.source["delta_base"] == f"odd:1.0.0 {candidate['base']}"
    assert "reuse the scales of odd:1.0.0" in profile["reason"]
    assert "Built again, bit for bit: x86-64-v3." in builder("release", "verify", "odd:1.1.0", "--rebuild")


def test_what_is_no_base_is_said_and_built_without(builder, odd):
    words = ["--version", "1.2.0", "--delta-base", "odd:1.0.0", "--type", "Q8_0"]
    told = builder("quantize", odd, *NAMED, *words)

    assert "odd:1.0.0 is no base for a small delta: it is gguf Q5_0, and auto Q8_0 was asked for" in told
    assert models(builder, "odd:1.2.0")["type"] == "Q8_0"


def test_a_base_that_is_not_there_is_a_typed_error(builder, odd):
    words = ["--version", "1.2.0", "--delta-base", "odd:9.9.9"]
    assert "the registry has no release odd:9.9.9" in builder("quantize", odd, *NAMED, *words, exits=1)
