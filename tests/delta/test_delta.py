import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from gguf import GGMLQuantizationType, GGUFWriter
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from slmops.build.checkpoint import open_checkpoint
from slmops.build.ggml import Quantizer
from slmops.build.nibbles import round_plainly
from slmops.build.quantize_gguf import quantize_gguf
from slmops.build.scheme import GGML_TYPES
from slmops.delta.apply_delta import apply_delta, main
from slmops.delta.make_delta import make_delta
from slmops.delta.regions import GGML, regions
from slmops.errors import IntegrityError

REPO = Path(__file__).parents[2]
DEMO = REPO / "demo" / "model"


def delta_between(folder, base, target):
    """Write two files and the delta between them; return its report (it is applied before it is returned)."""
    for name, data in (("base", base), ("target", target)):
        (folder / name).write_bytes(data)
    return make_delta(folder / "base", folder / "target", folder / "delta")


def gguf(path, tensors, words="a b c"):
    """Write a GGUF file: {name: (type, float32 matrix)}."""
    with Quantizer() as quantize:
        writer = GGUFWriter(path, "llama")
        writer.add_string("tokenizer.words", words)
        for name, (kind, matrix) in tensors.items():
            raw = GGMLQuantizationType(GGML_TYPES[kind].id)
            writer.add_tensor(name, quantize(kind, matrix), raw_shape=None, raw_dtype=raw)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return path.read_bytes()


def moved(matrix, how_far, seed=1):
    noise = np.random.default_rng(seed).normal(size=matrix.shape)
    return (matrix + how_far * matrix.std() * noise).astype(np.float32)


@pytest.fixture(scope="module")
def matrix():
    return np.random.default_rng(0).normal(size=(64, 512)).astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=3000), st.binary(max_size=3000))
def test_any_file_follows_from_any_other(base, target):
    with tempfile.TemporaryDirectory() as folder:
        report = delta_between(Path(folder), base, target)
    assert report.bytes <= len(target) + 60


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1 << 30), st.sampled_from([kind for kind, *_ in GGML.values()]), st.floats(0, 1))
@example(20291945, "I8", 0.125)  # all that is coded comes to less than a byte
def test_blocks_of_any_bytes_whatever_follow_from_others(seed, kind, share):
    """Infinite scales, scales that are no numbers, codes that ggml would never write."""
    number, (_, weights, nbytes) = next((n, form) for n, form in GGML.items() if form[0] == kind)
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 256, 40 * nbytes, np.uint8)
    target = np.where(rng.random(40 * nbytes) < share, rng.integers(0, 256, 40 * nbytes, np.uint8), base)
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for data in (base, target.astype(np.uint8)):
            path = Path(folder) / "made"
            writer = GGUFWriter(path, "llama")
            shape = (40, weights)
            writer.add_tensor_info("w", shape, np.dtype(np.float32), len(data), GGMLQuantizationType(number))
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            writer.close()
            files.append(path.read_bytes() + bytes(-path.stat().st_size % 32) + data.tobytes())
        delta_between(Path(folder), *files)


@pytest.mark.parametrize("kind", sorted(GGML_TYPES))
def test_moved_weights_take_far_less_than_the_file(tmp_path, matrix, kind):
    base = gguf(tmp_path / "a", {"w": (kind, matrix)})
    target = gguf(tmp_path / "b", {"w": (kind, moved(matrix, 0.01))})
    report = delta_between(tmp_path, base, target)
    known = {"floats" if kind in ("F32", "F16", "BF16") else "blocks"}
    assert known <= set(report.target_bytes_by)
    assert report.bytes < len(target) * (0.8 if kind == "F32" else 0.55)


def test_the_same_file_takes_next_to_nothing(tmp_path, matrix):
    base = gguf(tmp_path / "a", {"w": ("Q4_0", matrix)})
    assert delta_between(tmp_path, base, base).bytes < 40


def test_a_scale_that_changed_its_sign_costs_that_sign_alone(tmp_path, matrix):
    """ggml takes a block's scale from its largest weight: with another sign there, each code flips."""
    flipped = matrix.copy()
    largest = np.abs(matrix.reshape(-1, 32)).argmax(axis=1)
    blocks = flipped.reshape(-1, 32)
    blocks[np.arange(len(blocks)), largest] *= -1
    base = gguf(tmp_path / "a", {"w": ("Q4_0", matrix)})
    target = gguf(tmp_path / "b", {"w": ("Q4_0", flipped)})
    assert delta_between(tmp_path, base, target).bytes < len(target) * 0.15


def test_new_words_more_rows_and_another_type_are_all_in_a_delta(tmp_path, matrix):
    base = {"w": ("Q4_0", matrix), "v": ("Q8_0", matrix), "gone": ("F16", matrix)}
    more = np.concatenate((matrix, matrix[:3]))
    target = {"new": ("Q6_K", matrix), "w": ("Q4_0", more), "v": ("Q4_K", matrix)}
    report = delta_between(
        tmp_path, gguf(tmp_path / "a", base), gguf(tmp_path / "b", target, "a b c d" * 100)
    )
    assert {"copied", "new blocks"} <= set(report.target_bytes_by)


def test_the_demo_model_moved_takes_a_fraction_of_it(tmp_path):
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "moved"
        copy.mkdir()
        for file in DEMO.iterdir():
            if file.suffix != ".safetensors":
                (copy / file.name).write_bytes(file.read_bytes())
        raw = bytearray((DEMO / "model.safetensors").read_bytes())
        (length,) = np.frombuffer(raw[:8], "<u8")
        header = json.loads(raw[8 : 8 + int(length)])
        weights = np.frombuffer(raw, "<u2", offset=8 + int(length)).copy()
        assert {said["dtype"] for name, said in header.items() if name != "__metadata__"} <= {"BF16", "F16"}
        weights[::7] ^= 8
        (copy / "model.safetensors").write_bytes(bytes(raw[: 8 + int(length)]) + weights.tobytes())
        for kind in ("Q4_0", "Q8_0"):
            base, target = tmp_path / f"base.{kind}", tmp_path / f"target.{kind}"
            quantize_gguf(open_checkpoint(DEMO), kind, base)
            quantize_gguf(open_checkpoint(copy), kind, target)
            report = make_delta(base, target, tmp_path / "delta")
            assert report.worth_it
            assert report.bytes < report.target_bytes * 0.5


def onnx_file(matrix):
    """Return a graph's bytes: a matrix in float32, in bytes by column, and in nibbles."""
    scales = (np.abs(matrix).max(axis=0) / 127).astype(np.float32)
    codes = (np.rint(matrix / scales) + 128).astype(np.uint8)
    nibbles = round_plainly(matrix)
    parts = [matrix, codes, scales, np.full(len(scales), 128, np.uint8)]
    parts += [nibbles.packed_codes, nibbles.scales, nibbles.packed_zeros]
    held = [numpy_helper.from_array(part, f"v{place}") for place, part in enumerate(parts)]
    value = helper.make_tensor_value_info("v0", TensorProto.FLOAT, matrix.shape)
    return onnx.helper.make_model(helper.make_graph([], "g", [], [value], held)).SerializeToString()


def test_onnx_codes_follow_from_scales_that_lie_behind_them(tmp_path, matrix):
    target = moved(matrix, 0.005)
    target[0] *= 1.3  # the scales of many columns and of many blocks, and so their codes, but few weights
    target[:, ::32] *= 1.3
    report = delta_between(tmp_path, onnx_file(matrix), onnx_file(target))
    assert report.target_bytes_by["grid"] == matrix.size + matrix.size // 2
    assert report.target_bytes_by["floats"] >= matrix.nbytes
    assert report.bytes < report.target_bytes * 0.62


def test_onnx_tensors_lie_where_the_onnx_package_says(tmp_path, matrix):
    (tmp_path / "m").write_bytes(onnx_file(matrix))
    with (tmp_path / "m").open("rb") as file:
        found = regions(file)
    data = (tmp_path / "m").read_bytes()
    for held in onnx.load(tmp_path / "m").graph.initializer:
        region = next(region for region in found if region.name == held.name)
        assert data[region.place : region.place + region.length] == held.raw_data
        assert region.shape == tuple(held.dims)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_broken_delta_is_refused_and_nothing_else(broken, data):
    folder, intact = broken
    spoilt = bytearray(intact)
    for _ in range(data.draw(st.integers(1, 3))):
        spoilt[data.draw(st.integers(0, len(spoilt) - 1))] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.one_of(st.just(len(spoilt)), st.integers(0, len(spoilt) - 1)))
    (folder / "spoilt").write_bytes(spoilt[:cut])
    if bytes(spoilt[:cut]) == intact:
        return
    try:
        apply_delta(folder / "base", folder / "spoilt", folder / "out")
    except IntegrityError:
        assert not (folder / "out").exists()
    else:
        assert (folder / "out").read_bytes() == (folder / "target").read_bytes()


@pytest.fixture(scope="module", params=["gguf", "onnx"])
def broken(tmp_path_factory, matrix, request):
    """A delta that has about every operation in it, with its files."""
    folder, small = tmp_path_factory.mktemp("broken"), matrix[:8, :256]
    if request.param == "onnx":
        delta_between(folder, onnx_file(small), onnx_file(moved(small, 0.02)))
    else:
        base = {"w": ("Q4_K", small), "v": ("F16", small)}
        target = {"w": ("Q4_K", moved(small, 0.05)), "v": ("F16", moved(small, 0.01)), "x": ("Q8_0", small)}
        old = gguf(folder / "a", base, "once upon a time " * 9)
        delta_between(folder, old, gguf(folder / "b", target, "upon time"))
    return folder, (folder / "delta").read_bytes()


def test_another_base_is_refused(tmp_path):
    delta_between(tmp_path, b"once upon a time" * 40, b"once upon a day" * 40)
    (tmp_path / "base").write_bytes(b"twice upon a time"[:16] * 40)
    with pytest.raises(IntegrityError, match="something else"):
        apply_delta(tmp_path / "base", tmp_path / "delta", tmp_path / "out")


def test_the_command_says_why_it_fails_and_leaves_nothing(tmp_path, capsys):
    delta_between(tmp_path, b"one", b"two")
    assert main([str(tmp_path / name) for name in ("base", "delta", "out")]) == 0
    assert (tmp_path / "out").read_bytes() == b"two"
    assert main([str(tmp_path / name) for name in ("base", "target", "out")]) == 1
    assert "not a delta" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main(["base"]) == 1


def test_applying_takes_the_same_little_memory_for_a_larger_file(tmp_path):
    """The child process, its Python and numpy included, stays under 64 MB."""
    peaks = []
    for rows in (512, 4096):
        matrix = np.random.default_rng(0).normal(size=(rows, 1024)).astype(np.float32)
        base = gguf(tmp_path / "a", {"w": ("Q8_0", matrix)})
        delta_between(tmp_path, base, gguf(tmp_path / "b", {"w": ("Q8_0", moved(matrix, 0.05))}))
        code = (
            "import re, sys; from pathlib import Path; from slmops.delta.apply_delta import main\n"
            "failed = main(sys.argv[1:])\n"
            "peak = re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]\n"
            "print(peak); sys.exit(failed)"
        )
        words = [str(tmp_path / name) for name in ("base", "delta", "out")]
        said = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, check=True, cwd=REPO)
        peaks.append(int(said.stdout) / 1024)
    assert max(peaks) < 64
    assert peaks[1] < peaks[0] + 8
