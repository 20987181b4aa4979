"""Parts of a build that are done once, and those that are not done to their end."""

from dataclasses import replace

import pytest

from slmops.build.cache import Cache
from slmops.build.plan import Make
from slmops.build.quantize_gguf import quantize_gguf
from slmops.build.source import open_gguf
from slmops.build.steps import Steps
from slmops.errors import BuildError


@pytest.fixture
def checkpoint(random_checkpoint):
    return random_checkpoint("LlamaForCausalLM")


@pytest.fixture
def source(checkpoint, tmp_path):
    quantize_gguf(checkpoint, "F16", tmp_path / "source.gguf")
    return tmp_path / "source.gguf"


def silent(_doing, _share):
    pass


def test_an_interrupted_build_leaves_nothing_half_made(source, tmp_path):
    def interrupt(_doing, _share):
        raise KeyboardInterrupt

    cache = Cache(tmp_path / "cache")
    steps = Steps(open_gguf(source), cache, interrupt, jobs=2)
    with pytest.raises(KeyboardInterrupt):
        steps.models([Make("gguf", name) for name in ("Q8_0", "Q5_0", "Q4_0")], None)

    assert cache.steps() == []
    assert not [folder for folder in cache.folder.iterdir() if folder.is_dir()]


def test_scales_of_a_file_that_is_not_here_are_not_reused(checkpoint, tmp_path):
    reusing = Make("gguf", "Q8_0", base=f"sha256:{'0' * 64}")

    with pytest.raises(BuildError, match="reuses the scales of a file that is not here"):
        Steps(checkpoint, Cache(tmp_path / "cache"), silent).models([reusing], None)


def test_what_one_process_builds_two_build_as_well(source, tmp_path):
    makes = [Make("gguf", name) for name in ("Q8_0", "Q4_0")]
    one, two = (
        Steps(open_gguf(source), Cache(tmp_path / f"{jobs}"), silent, jobs).models(makes, None)[0]
        for jobs in (1, 2)
    )

    assert [one[make].file.read_bytes() for make in makes] == [two[make].file.read_bytes() for make in makes]


def test_a_converter_that_has_changed_converts_again(checkpoint, source, tmp_path):
    script = tmp_path / "convert_hf_to_gguf.py"
    script.write_text(f"import shutil, sys\nshutil.copy({str(source)!r}, sys.argv[5])\n")
    cache, heard = Cache(tmp_path / "cache"), []
    for change in ("", "", "# another version\n"):
        script.write_text(script.read_text() + change)
        steps = Steps(checkpoint, cache, lambda doing, _share: heard.append(doing))
        steps.convert(script)

    assert steps.gguf.tensors.keys() == open_gguf(source).tensors.keys()
    assert heard == ["converting with llama.cpp's own converter"] * 2


def test_an_importance_matrix_names_only_what_it_weighs(checkpoint, source, tmp_path):
    cache = Cache(tmp_path / "cache")
    streamed, requantised = Steps(checkpoint, cache, silent), Steps(open_gguf(source), cache, silent)

    assert streamed.weighs(Make("gguf", "Q4_0"))
    assert streamed.weighs(Make("onnx", "INT4"))
    assert not streamed.weighs(Make("onnx", "INT8"))
    assert not requantised.weighs(Make("gguf", "Q4_0"))


def test_a_model_is_named_by_the_base_whose_scales_it_has_and_by_how_far_that_went(
    checkpoint, random_checkpoint, tmp_path
):
    quantize_gguf(random_checkpoint(name="earlier", seed=2), "Q4_0", tmp_path / "base.gguf")
    plain = Make("gguf", "Q4_0")
    makes = [plain, *(replace(plain, base="sha256:b", tolerance=tolerance) for tolerance in (0.0, 9.0))]
    steps = Steps(checkpoint, Cache(tmp_path / "cache"), silent, bases={"sha256:b": tmp_path / "base.gguf"})

    models, _ = steps.models(makes, None)

    assert len({models[make].key for make in makes}) == len(makes)
    assert [models[make].report.reused_share for make in makes] == sorted(
        models[make].report.reused_share for make in makes
    )
    assert models[plain].report.reused_share == 0.0 < models[makes[2]].report.reused_share
    assert models[plain].file.stat().st_size == models[makes[2]].file.stat().st_size
