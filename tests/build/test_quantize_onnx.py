"""From a checkpoint to one ONNX file, with the real exporter and the real runtime."""

import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from slmops.build.checkpoint import open_checkpoint
from slmops.build.measure import judge, measure_many
from slmops.build.onnx_size import SENSITIVE_SHARE
from slmops.build.open_model import OnnxModel
from slmops.build.quantize_onnx import (
    EXACT,
    FAST,
    choose_level,
    most_sensitive,
    predicted_size,
    quantize_onnx,
)
from slmops.errors import BuildError, ModelError, install_line

SHARED = Path(__file__).parents[2].parent / "shared" / "models"


def test_a_model_too_large_for_one_file_is_refused_before_any_work(random_checkpoint, tmp_path):
    checkpoint = random_checkpoint()
    name, entry = next(iter(checkpoint.tensors.items()))
    vast = replace(checkpoint, tensors={name: replace(entry, shape=(700_000, 1000))})
    with pytest.raises(
        BuildError, match=r"F32 would be 2\.80 GB; a model in one ONNX file holds at most 2\.10 GB"
    ):
        quantize_onnx(vast, "F32", tmp_path / "model.onnx")


def test_a_missing_exporter_is_named_with_the_line_that_installs_it(random_checkpoint, tmp_path):
    script = (
        "import sys; sys.modules['optimum'] = None\n"
        "from pathlib import Path\n"
        "from slmops.build.checkpoint import open_checkpoint\n"
        "from slmops.build.quantize_onnx import quantize_onnx\n"
        "from slmops.errors import MissingPartError\n"
        "try: quantize_onnx(open_checkpoint(Path(sys.argv[1])), 'INT8', Path(sys.argv[2]))\n"
        "except MissingPartError as error: print(error, error.remedy, sep='|')\n"
    )
    command = [sys.executable, "-c", script, random_checkpoint().folder, tmp_path / "model.onnx"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    missing = "the ONNX export needs optimum.exporters.onnx, which is not installed"
    assert said == f"{missing}|{install_line('onnx')}\n"


def test_ctrl_c_leaves_nothing_behind(random_checkpoint, tmp_path):
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from slmops.build.checkpoint import open_checkpoint\n"
        "from slmops.build.quantize_onnx import quantize_onnx\n"
        "checkpoint = open_checkpoint(Path(sys.argv[1]))\n"
        "quantize_onnx(checkpoint, 'F32', Path(sys.argv[2]), lambda *said: print(*said, flush=True))\n"
    )
    out = tmp_path / "out"
    out.mkdir()
    command = [sys.executable, "-c", script, random_checkpoint().folder, out / "model.onnx"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        assert process.stdout
        assert b"loading the exporter" in process.stdout.readline()
        # The terminal sends it to every process of the group, the child too.
        os.killpg(process.pid, signal.SIGINT)
        process.stdout.read()
        assert process.wait() != 0
    assert list(out.iterdir()) == []


@pytest.mark.parametrize(
    ("losses", "spared"),
    [
        ({"a": 1.0, "b": 0.5, "c": 9.0}, {"a", "b"}),
        ({"a": 0.0, "b": 0.5, "c": 0.1}, {"b", "a"}),
        ({"a": 1.0, "b": 1.0, "c": 1.0}, {"a", "b"}),
    ],
)
def test_an_eighth_of_the_weights_is_spared_where_it_saves_most(losses, spared):
    assert most_sensitive(losses, {"a": 60, "b": 60, "c": 1000}) == spared


def test_inputs_in_bytes_are_kept_only_while_they_cost_little():
    assert choose_level(fast=0.0120, exact=0.0100) == FAST
    assert choose_level(fast=0.0130, exact=0.0100) == EXACT
    assert choose_level(fast=0.00009, exact=0.00001) == FAST


FAMILIES = {
    "LlamaForCausalLM": {"tie_word_embeddings": False},
    "MistralForCausalLM": {"sliding_window": 32},
    "Qwen2ForCausalLM": {},
    "Qwen3ForCausalLM": {"head_dim": 64},
    "Phi3ForCausalLM": {"tie_word_embeddings": False, "sliding_window": 128},
    "Gemma2ForCausalLM": {"sliding_window": 32},
    "Gemma3ForCausalLM": {"sliding_window": 32},
    "GPT2LMHeadModel": {"intermediate_size": 1024},
}


@pytest.mark.journey
@pytest.mark.parametrize(("architecture", "said"), FAMILIES.items())
def test_what_is_built_says_what_its_source_says(random_checkpoint, tmp_path, architecture, said):
    checkpoint = random_checkpoint(architecture, num_hidden_layers=3, **said)
    files = {name: tmp_path / f"{name}.onnx" for name in ("F32", "INT4")}
    reports = {name: quantize_onnx(checkpoint, name, file) for name, file in files.items()}
    exact, rounded = measure_many(checkpoint, list(files.values()), tokens=256)
    assert exact.kl_mean < 1e-9
    assert exact.top1 == 1
    judge(rounded, "INT4")
    assert {file.name for file in tmp_path.iterdir()} == {"model", "F32.onnx", "INT4.onnx"}
    _check_report(reports, checkpoint, files)
    _check_law_of_rounding(files["INT4"])


def _check_report(reports, checkpoint, files):
    """Sizes are those of the files and were foretold; every matrix is said, by its name in the checkpoint."""
    sizes = {name: report.bytes for name, report in reports.items()}
    assert sizes == {name: file.stat().st_size for name, file in files.items()}
    assert all(0.98 < predicted_size(checkpoint, name) / size < 1.1 for name, size in sizes.items())
    matrices = {name for name, entry in checkpoint.tensors.items() if len(entry.shape) == 2}
    assert all(report.types.keys() == matrices for report in reports.values())
    inner = {
        name: kind for name, kind in reports["INT4"].types.items() if ".layers." in name or ".h." in name
    }
    spared = sum(math.prod(checkpoint.tensors[name].shape) for name, kind in inner.items() if kind == "INT8")
    assert 0 < spared <= SENSITIVE_SHARE * sum(math.prod(checkpoint.tensors[name].shape) for name in inner)
    assert reports["INT4"].accuracy_level in (FAST, EXACT)
    assert "level 4" in reports["INT4"].reason


def _check_law_of_rounding(file):
    """Weights are unsigned, for CPUs without VNNI; no token hears its neighbours' scale."""
    weights = [tensor for tensor in onnx.load(file).graph.initializer if math.prod(tensor.dims) > 40_000]
    assert {tensor.data_type for tensor in weights} <= {onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT16}
    model = OnnxModel(file)
    together = model.feed([1, 5, 9, 13])
    model.restart()
    apart = np.concatenate([model.feed([id_]) for id_ in (1, 5, 9, 13)])
    assert np.allclose(together, apart, atol=2e-2)


@pytest.mark.journey
def test_another_process_writes_the_same_bytes(random_checkpoint, tmp_path):
    checkpoint = random_checkpoint()
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from slmops.build.checkpoint import open_checkpoint\n"
        "from slmops.build.quantize_onnx import quantize_onnx\n"
        "if __name__ == '__main__':\n"
        "    quantize_onnx(open_checkpoint(Path(sys.argv[1])), 'INT4', Path(sys.argv[2]))\n"
    )
    (tmp_path / "build.py").write_text(script)
    for seed in ("1", "2"):
        command = [sys.executable, tmp_path / "build.py", checkpoint.folder, tmp_path / seed]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": seed})
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


@pytest.mark.journey
def test_importance_of_another_width_is_refused(random_checkpoint, tmp_path):
    importance = {"model.layers.0.mlp.down_proj.weight": np.ones(7, np.float32)}
    with pytest.raises(BuildError, match=r"down_proj.weight: expected 512 columns, got \[7\]"):
        quantize_onnx(random_checkpoint(), "INT4", tmp_path / "model.onnx", importance=importance)


@pytest.mark.journey
def test_a_family_that_the_exporter_does_not_know_is_refused_before_its_weights_are_read(
    random_checkpoint, tmp_path
):
    checkpoint = replace(random_checkpoint(), architecture="MambaForCausalLM")
    with pytest.raises(BuildError, match="MambaForCausalLM cannot be exported to ONNX as a decoder"):
        quantize_onnx(checkpoint, "INT8", tmp_path / "model.onnx")


@pytest.mark.journey
def test_a_config_that_makes_no_model_is_named(random_checkpoint, tmp_path):
    checkpoint = random_checkpoint(hidden_act="no-such-function")
    with pytest.raises(ModelError, match=r"does not describe a LlamaForCausalLM.*no-such-function"):
        quantize_onnx(checkpoint, "F32", tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


PLAIN_RECIPE = {"stories260k": 0.130, "tinystories-656k": 0.0709}
"""Divergence of onnxruntime's own recipe (MatMulNBitsQuantizer, block 32, symmetric): bench/onnx_types.py."""


@pytest.mark.journey
@pytest.mark.parametrize("name", PLAIN_RECIPE)
def test_a_trained_model_bears_bytes_and_nibbles(name, tmp_path):
    if not (SHARED / name).is_dir():
        pytest.skip(f"no model at {SHARED / name}")
    checkpoint = open_checkpoint(SHARED / name)
    files = {kind: tmp_path / f"{kind}.onnx" for kind in ("F32", "INT8", "INT4")}
    for kind, file in files.items():
        quantize_onnx(checkpoint, kind, file)
    exact, rounded, small = measure_many(checkpoint, list(files.values()))
    assert exact.kl_mean < 1e-5
    assert rounded.kl_mean < 5e-3
    assert rounded.top1 > 0.93
    assert small.kl_mean < PLAIN_RECIPE[name] / 2
    assert files["INT4"].stat().st_size < 0.8 * files["INT8"].stat().st_size
