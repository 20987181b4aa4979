"""Loss against the source, with real models in real runtimes."""

import math
import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from slmops.artifact.golden import Golden
from slmops.build.checkpoint import open_checkpoint
from slmops.build.divergence import log_probabilities
from slmops.build.measure import judge, measure, measure_many, open_source, read_alone
from slmops.build.quantize_gguf import quantize_gguf
from slmops.build.quantize_onnx import quantize_onnx
from slmops.build.record_golden import LEAST, record_golden
from slmops.errors import BuildError, ModelError

SHARED = Path(__file__).parents[2].parent / "shared"
BITS_PER_BYTE = {"stories260k": 0.986, "tinystories-656k": 1.026}


def _shared(name):
    if not (SHARED / "models" / name).is_dir():
        pytest.skip(f"no model at {SHARED / 'models' / name}")
    return open_checkpoint(SHARED / "models" / name)


def test_a_source_that_is_no_model_is_a_typed_error(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ModelError, match=r"model\.gguf is damaged"):
        measure(tmp_path / "model.gguf", tmp_path / "model.gguf")


def test_an_artifact_that_is_no_model_is_a_build_error_with_the_runtimes_words(random_checkpoint, tmp_path):
    quantize_gguf(random_checkpoint(), "Q8_0", tmp_path / "source.gguf")
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(BuildError, match=r"(?s)llama\.cpp cannot load model\.gguf: .*version"):
        measure(tmp_path / "source.gguf", tmp_path / "model.gguf", tokens=16)


def test_artifacts_one_by_one_or_all_at_once_are_measured_alike(random_checkpoint, tmp_path):
    checkpoint = random_checkpoint()
    files = [tmp_path / f"{kind}.gguf" for kind in ("F16", "Q8_0", "Q4_0")]
    for file in files:
        quantize_gguf(checkpoint, file.stem, file)
    one_by_one, at_once = (measure_many(files[0], files, tokens=48, jobs=jobs) for jobs in (1, 3))
    assert one_by_one == at_once
    assert [found.tokens for found in at_once] == [48, 48, 48]
    assert at_once[0].kl_mean < 1e-6 < at_once[1].kl_mean < at_once[2].kl_mean
    assert at_once[0].source_perplexity == at_once[2].source_perplexity


def test_a_held_out_text_is_read_and_not_written(random_checkpoint, tmp_path):
    quantize_gguf(random_checkpoint(), "F16", tmp_path / "source.gguf")
    quantize_gguf(random_checkpoint(name="again"), "Q4_0", tmp_path / "model.gguf")
    text = tmp_path / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 20)
    found = measure(tmp_path / "source.gguf", tmp_path / "model.gguf", texts=text, tokens=64)
    assert found.tokens == 64
    assert found.perplexity_low < found.perplexity < found.perplexity_high
    assert found.perplexity_ratio == pytest.approx(found.perplexity / found.source_perplexity)
    alone = read_alone(tmp_path / "model.gguf", text, tokens=64)
    assert alone.likelihood.perplexity == pytest.approx(found.perplexity, rel=1e-2)
    assert alone.likelihood.bits_per_byte == pytest.approx(found.bits_per_byte, rel=1e-2)


def test_a_model_with_few_positions_is_measured_within_them(random_checkpoint, tmp_path):
    few = random_checkpoint("GPT2LMHeadModel", name="few", max_position_embeddings=48, alive=True)
    quantize_gguf(few, "F16", tmp_path / "few.gguf")
    more = random_checkpoint("GPT2LMHeadModel", name="more", alive=True)
    found = measure(more, tmp_path / "few.gguf", tokens=96, context=48)
    assert found.tokens == 96
    assert found.sequences >= 2
    # What it writes itself, 96 tokens for a model that bears them, ends in time.
    assert isinstance(record_golden(few, [tmp_path / "few.gguf"]), list)


def test_no_process_outlives_a_measurement_that_fails(random_checkpoint, tmp_path):
    quantize_gguf(random_checkpoint(), "F16", tmp_path / "source.gguf")
    quantize_gguf(random_checkpoint(name="wide", vocab_size=416), "F16", tmp_path / "wide.gguf")
    with pytest.raises(BuildError, match=r"wide.gguf knows 416 tokens, its source 384"):
        measure_many(
            tmp_path / "source.gguf", [tmp_path / "source.gguf", tmp_path / "wide.gguf"], tokens=32, jobs=2
        )
    assert multiprocessing.active_children() == []


@pytest.mark.journey
@pytest.mark.parametrize("name", BITS_PER_BYTE)
def test_the_reference_is_the_model_that_was_trained(name):
    checkpoint = _shared(name)
    file = SHARED / "data" / "tinystories_eval_200.txt"
    if not file.is_file():
        pytest.skip(f"no text at {file}")
    stories = [story.strip() for story in file.read_text().split("<|endoftext|>") if story.strip()]
    model, phrasing = open_source(checkpoint, 512, lambda *_: None)
    bits = total = 0.0
    for story in stories:
        ids = phrasing.ids(Golden(expect="", prompt=story))[:512]
        model.restart()
        likely = log_probabilities(model.feed(ids))
        bits -= likely[np.arange(len(ids) - 1), ids[1:]].sum() / math.log(2)
        total += len(phrasing.text(ids).encode())
    assert bits / total == pytest.approx(BITS_PER_BYTE[name], abs=0.001)


@pytest.mark.journey
@pytest.mark.parametrize("name", BITS_PER_BYTE)
def test_fewer_bits_lose_more_and_all_pass(name, tmp_path):
    checkpoint = _shared(name)
    files = {kind: tmp_path / f"{kind}.gguf" for kind in ("F32", "Q8_0", "Q4_0")}
    for kind, file in files.items():
        quantize_gguf(checkpoint, kind, file)
    found = dict(zip(files, measure_many(checkpoint, list(files.values())), strict=True))
    for kind, measurement in found.items():
        judge(measurement, kind)
    assert found["F32"].kl_mean < 1e-5
    assert found["F32"].kl_mean < found["Q8_0"].kl_mean < found["Q4_0"].kl_mean
    assert found["F32"].tokens == found["Q4_0"].tokens >= 512


@pytest.mark.journey
def test_another_models_artifact_does_not_pass_for_this_ones(random_checkpoint, tmp_path):
    own = random_checkpoint(name="own", tie_word_embeddings=True)
    other = random_checkpoint(name="other", tie_word_embeddings=False)
    quantize_onnx(other, "F32", tmp_path / "other.onnx")
    measurement = measure(own, tmp_path / "other.onnx", tokens=128)
    with pytest.raises(BuildError, match="is not its source"):
        judge(measurement, "F32")


@pytest.mark.journey
def test_a_gguf_is_measured_against_itself_and_its_own_words(tmp_path):
    quantize_gguf(_shared("stories260k"), "F16", tmp_path / "source.gguf")
    quantize_gguf(_shared("stories260k"), "Q4_0", tmp_path / "model.gguf")
    measurement = measure(tmp_path / "source.gguf", tmp_path / "model.gguf", tokens=128)
    assert 1e-3 < measurement.kl_mean < 0.3
    again = measure(tmp_path / "source.gguf", tmp_path / "model.gguf", tokens=128)
    assert again == measurement
    golden = record_golden(tmp_path / "source.gguf", [tmp_path / "model.gguf"], ["Once upon a time"])
    assert [line.expect for line in golden] == [", there was a little girl named Lily. She loved to play"]


@pytest.mark.journey
def test_an_abort_of_the_runtime_is_a_typed_error(tmp_path):
    quantize_gguf(_shared("tinystories-656k"), "F16", tmp_path / "source.gguf")
    with pytest.raises(BuildError, match="running the source model was ended by SIGABRT"):
        record_golden(tmp_path / "source.gguf", [], ["a curly quote: \u201c"])


@pytest.mark.journey
@pytest.mark.parametrize("name", BITS_PER_BYTE)
def test_golden_prompts_are_what_every_artifact_answers(name, tmp_path):
    checkpoint = _shared(name)
    quantize_gguf(checkpoint, "Q4_0", tmp_path / "model.gguf")
    surely = record_golden(checkpoint, [])
    held = record_golden(checkpoint, [tmp_path / "model.gguf"])
    assert held
    assert all(golden.max_tokens >= LEAST and golden.match == "prefix" for golden in held)
    expected = {golden.question: golden.expect for golden in surely}
    assert all(
        expected[golden.question].startswith(golden.expect) for golden in held if golden.question in expected
    )
