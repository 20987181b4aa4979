"""From a checkpoint to one ONNX file, with the real exporter and the real runtime."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file, save_file

from slmops.build.checkpoint import open_checkpoint
from slmops.build.measure import judge, measure_many
from slmops.build.open_model import OnnxModel
from slmops.build.quantize_onnx import quantize_onnx
from slmops.errors import BuildError, ModelError

SHARED = Path(__file__).parents[2].parent / "shared" / "models"


def with_preferences(checkpoint):
    """Put norms near one into a random model, so that it has choices for rounding to change."""
    file = checkpoint.folder / "model.safetensors"
    weights = load_file(file)
    save_file({name: 1 + rows if "norm" in name else rows for name, rows in weights.items()}, file)
    return open_checkpoint(checkpoint.folder)


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
    assert said == (
        'the ONNX export needs optimum.exporters.onnx, which is not installed|pip install "slmops[onnx]"\n'
    )


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


@pytest.mark.journey
@pytest.mark.parametrize(
    ("architecture", "said"),
    [
        ("LlamaForCausalLM", {"tie_word_embeddings": False}),
        ("Qwen2ForCausalLM", {"tie_word_embeddings": True}),
        ("Qwen3ForCausalLM", {"tie_word_embeddings": True, "head_dim": 64}),
    ],
)
def test_what_is_built_says_what_its_source_says(random_checkpoint, tmp_path, architecture, said):
    checkpoint = with_preferences(random_checkpoint(architecture, **said))
    files = {name: tmp_path / f"{name}.onnx" for name in ("F32", "INT8")}
    reports = {name: quantize_onnx(checkpoint, name, file) for name, file in files.items()}
    exact, rounded = measure_many(checkpoint, list(files.values()))
    assert exact.kl_mean < 1e-9
    assert exact.top1 == 1
    judge(rounded, "INT8")
    assert {file.name for file in tmp_path.iterdir()} == {"model", "F32.onnx", "INT8.onnx"}
    assert reports["INT8"].bytes == files["INT8"].stat().st_size < reports["F32"].bytes
    _check_law_of_rounding(files["INT8"])


def _check_law_of_rounding(file):
    """Weights are unsigned, for CPUs without VNNI; no token hears its neighbours' scale."""
    weights = [tensor for tensor in onnx.load(file).graph.initializer if len(tensor.dims) == 2]
    assert {tensor.data_type for tensor in weights} == {onnx.TensorProto.UINT8}
    model = OnnxModel(file)
    together = model.feed([1, 5, 9, 13])
    model.restart()
    apart = np.concatenate([model.feed([id_]) for id_ in (1, 5, 9, 13)])
    assert np.allclose(together, apart, atol=1e-3)


@pytest.mark.journey
def test_a_config_that_makes_no_model_is_named(random_checkpoint, tmp_path):
    checkpoint = random_checkpoint(hidden_act="no-such-function")
    with pytest.raises(ModelError, match=r"does not describe a LlamaForCausalLM.*no-such-function"):
        quantize_onnx(checkpoint, "F32", tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.journey
@pytest.mark.parametrize("name", ["stories260k", "tinystories-656k"])
def test_a_trained_model_bears_bytes(name, tmp_path):
    if not (SHARED / name).is_dir():
        pytest.skip(f"no model at {SHARED / name}")
    checkpoint = open_checkpoint(SHARED / name)
    files = {kind: tmp_path / f"{kind}.onnx" for kind in ("F32", "INT8")}
    for kind, file in files.items():
        quantize_onnx(checkpoint, kind, file)
    exact, rounded = measure_many(checkpoint, list(files.values()))
    assert exact.kl_mean < 1e-5
    assert rounded.kl_mean < 5e-3
    assert rounded.top1 > 0.93
