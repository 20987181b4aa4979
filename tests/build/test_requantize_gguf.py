"""What another tool made becomes the type that is asked for."""

import pytest
from gguf import GGUFReader

from slmops.build.quantize_gguf import quantize_gguf
from slmops.build.requantize_gguf import convert_with, requantize_gguf
from slmops.errors import BuildError, ModelError, UsageError


def tensors(file):
    return {t.name: (t.tensor_type.name, t.data.tobytes()) for t in GGUFReader(file).tensors}


@pytest.fixture
def source(random_checkpoint, tmp_path):
    quantize_gguf(random_checkpoint(), "F32", tmp_path / "source.gguf")
    return tmp_path / "source.gguf"


def test_requantising_is_what_the_direct_way_makes(random_checkpoint, tmp_path):
    checkpoint = random_checkpoint(hidden_size=96)
    direct = quantize_gguf(checkpoint, "Q4_K_M", tmp_path / "direct.gguf")
    quantize_gguf(checkpoint, "F32", tmp_path / "source.gguf")
    heard = []
    report = requantize_gguf(
        tmp_path / "source.gguf", "Q4_K_M", tmp_path / "out.gguf", lambda *counts: heard.append(counts)
    )
    assert tensors(tmp_path / "out.gguf") == tensors(tmp_path / "direct.gguf")
    assert report.types == direct.types
    assert report.bits_per_weight == pytest.approx(direct.bits_per_weight)
    assert {f.tensor for f in report.fallbacks} == {f.tensor for f in direct.fallbacks}
    assert heard == sorted(heard)
    assert heard[-1] == (checkpoint.parameters, checkpoint.parameters)


def test_a_file_that_has_the_type_already_is_copied(source, tmp_path):
    requantize_gguf(source, "F32", tmp_path / "copy.gguf")
    assert (tmp_path / "copy.gguf").read_bytes() == source.read_bytes()


@pytest.mark.parametrize("length", [0, 3, 100, 9000, -40])
def test_a_cut_off_file_is_refused(source, tmp_path, length):
    source.write_bytes(source.read_bytes()[:length])
    with pytest.raises(ModelError, match=r"source\.gguf \(\d+ bytes\) is damaged, cut off or no GGUF file"):
        requantize_gguf(source, "Q8_0", tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ModelError, match="no file"):
        requantize_gguf(tmp_path / "nothing.gguf", "Q8_0", tmp_path / "out.gguf")


def test_an_unknown_type_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(UsageError, match="Q9"):
        requantize_gguf(tmp_path / "nothing.gguf", "Q9", tmp_path / "out.gguf")


def test_what_llama_cpp_will_not_quantise_comes_with_its_reason(source, tmp_path):
    data = bytearray(source.read_bytes())
    data[-4:] = b"\x00\x00\xc0\x7f"  # the last weight becomes NaN
    source.write_bytes(data)
    with pytest.raises(BuildError, match=r"cannot quantise .*failed"):
        requantize_gguf(source, "Q8_0", tmp_path / "out.gguf")
    assert [file.name for file in tmp_path.iterdir() if "out" in file.name] == []


def test_a_converter_that_is_not_there_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match=r"expected convert_hf_to_gguf\.py there"):
        convert_with(tmp_path, tmp_path, "Q8_0", tmp_path / "out.gguf")


def test_a_converter_that_fails_is_quoted(tmp_path):
    script = tmp_path / "vendor" / "llama.cpp" / "convert_hf_to_gguf.py"
    script.parent.mkdir(parents=True)
    script.write_text("raise SystemExit('Model SomethingForCausalLM is not supported')")
    with pytest.raises(BuildError, match=r"(?s)its last words:.*SomethingForCausalLM is not supported"):
        convert_with(tmp_path, tmp_path, "Q8_0", tmp_path / "out.gguf")
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".convert")]


def test_a_converters_file_is_quantised_and_does_not_stay(source, tmp_path):
    script = tmp_path / "convert_hf_to_gguf.py"
    script.write_text("import shutil, sys\nshutil.copy(sys.argv[1] + '/source.gguf', sys.argv[5])\n")
    before = {file.name for file in tmp_path.iterdir()}
    report = convert_with(script, source.parent, "Q4_0", tmp_path / "out.gguf")
    assert report.bits_per_weight < 6
    assert {file.name for file in tmp_path.iterdir()} - before == {"out.gguf"}
