"""From a folder to a model that speaks, and the folders from which none comes."""

import dataclasses

import numpy as np
import pytest

from slmops.artifact.description import FILE_NAME, parse, render
from slmops.daemon.engine import Part
from slmops.daemon.generate import Wish
from slmops.daemon.load import Want, describe, load
from slmops.daemon.refusal import RefusedError
from slmops.daemon.sampling import Sampling
from slmops.errors import IntegrityError, ModelError

VOCABULARY_OF_ANOTHER = 310


def opened(folder):
    return load(folder, describe(folder), Want(slots=2))


def logits(engine, prompt):
    """The logits after a prompt, and after a few tokens more."""
    for at in range(0, len(prompt), engine.stride):
        (found,) = engine.read([Part(0, prompt[at : at + engine.stride], True)])
    rows = [found.copy(), *(engine.step([(0, token)])[0].copy() for token in range(5))]
    engine.keep(0, 0)
    return np.array(rows)


def answer(model, prompt, limit=40):
    ids = model.vocabulary.encode(prompt, begin=True, controls=True)
    return "".join(piece.text for piece in model.answer(Wish(ids, limit, Sampling())))


def change(folder, **changes):
    file = folder / FILE_NAME
    file.write_bytes(render(dataclasses.replace(parse(file.read_bytes()), **changes)))


@pytest.fixture(params=["gguf", "onnx"])
def folder(request, tiny, tmp_path):
    """An artifact that a test may break."""
    return tiny.make_artifact(tmp_path / "artifact", request.param, tiny.parrot_weights())


def test_both_formats_say_what_the_weights_say(tiny, parrot):
    model = opened(parrot)
    assert answer(model, "<|assistant|>") == tiny.SENTENCE
    assert answer(model, "x", limit=7) == "yzxyzxy"


def test_both_runtimes_compute_the_same_logits(tiny, tmp_path):
    weights = tiny.random_weights()
    prompt = np.random.default_rng(3).integers(0, tiny.VOCABULARY, 100).tolist()
    llama, onnx = (
        logits(opened(tiny.make_artifact(tmp_path / kind, kind, weights)).engine, prompt)
        for kind in ("gguf", "onnx")
    )
    # llama.cpp keeps its keys and values in half precision.
    assert llama == pytest.approx(onnx, abs=0.1)


def test_reading_in_strides_is_reading_at_once(tiny, tmp_path):
    prompt = np.random.default_rng(3).integers(0, tiny.VOCABULARY, 100).tolist()
    weights = tiny.random_weights()
    found = [
        logits(
            opened(
                tiny.make_artifact(tmp_path / f"{kind}{stride}", kind, weights, micro_batch=stride)
            ).engine,
            prompt,
        )
        for kind in ("gguf", "onnx")
        for stride in (1, 7, 128)
    ]
    assert all(np.allclose(found[0], other, atol=0.1) for other in found)


def test_answering_leaves_nothing_behind(random_model):
    used, fresh = (opened(random_model) for _ in range(2))
    for _ in range(2):
        assert len(list(used.answer(Wish([1, 2, 3], 5, Sampling())))) <= 5
    prompt = list(range(70))
    assert np.array_equal(logits(used.engine, prompt), logits(fresh.engine, prompt))


def test_a_full_context_can_be_read(folder):
    change(folder, context=256)
    model = opened(folder)
    assert len(answer(model, "x" * 200, limit=55)) == 55


@pytest.mark.parametrize("name", ["model", "tokenizer.json", "chat_template.jinja"])
def test_a_missing_file_is_named(folder, name):
    (gone,) = folder.glob(f"{name}*")
    gone.unlink()
    with pytest.raises(ModelError, match=f"{gone.name} is missing"):
        opened(folder)


def with_adapter(tiny, folder, **said):
    """An artifact of the parrot by whose adapter x follows on y, not z."""
    made = tiny.make_artifact(folder, "gguf", tiny.parrot_weights(), adapter="adapter.gguf")
    tiny.write_adapter(made / "adapter.gguf", {"y": "x"}, **said)
    return made


def test_an_adapter_changes_what_the_model_says(tiny, tmp_path):
    model = opened(with_adapter(tiny, tmp_path / "artifact"))
    assert answer(model, "x", limit=6) == "yxyxyx"
    assert answer(model, "<|assistant|>") == tiny.SENTENCE


def test_with_an_adapter_too_what_was_asked_before_does_not_change_a_bit(tiny, tmp_path):
    made = with_adapter(tiny, tmp_path / "artifact")
    tiny.write_gguf(made / "model.gguf", tiny.random_weights())
    used, fresh = (opened(made).engine for _ in range(2))
    prompt = np.random.default_rng(5).integers(0, tiny.VOCABULARY, 90).tolist()
    logits(used, [*prompt[:70], 3, 4])
    assert np.array_equal(logits(used, prompt), logits(fresh, prompt))


def test_an_adapter_for_other_shapes_is_named_with_the_reason(tiny, tmp_path):
    made = with_adapter(tiny, tmp_path / "artifact", inputs=VOCABULARY_OF_ANOTHER)
    with pytest.raises(ModelError, match=r"adapter\.gguf is no adapter for model\.gguf: .*incorrect shape"):
        opened(made)


@pytest.mark.parametrize("size", [0, 100, -1])
def test_a_cut_off_adapter_does_not_load(tiny, tmp_path, size):
    adapter = with_adapter(tiny, tmp_path / "artifact") / "adapter.gguf"
    adapter.write_bytes(adapter.read_bytes()[:size])
    with pytest.raises(ModelError, match=r"adapter\.gguf is no adapter for model\.gguf: .+") as error:
        opened(adapter.parent)
    assert "does not say why" not in str(error.value)


def test_a_missing_adapter_is_named(tiny, tmp_path):
    made = with_adapter(tiny, tmp_path / "artifact")
    (made / "adapter.gguf").unlink()
    with pytest.raises(ModelError, match=r"adapter\.gguf is missing"):
        opened(made)


@pytest.mark.parametrize("size", [0, 3, 100, 50_000, -1])
def test_a_cut_off_model_does_not_load(folder, size):
    (model,) = folder.glob("model.*")
    model.write_bytes(model.read_bytes()[:size])
    with pytest.raises(ModelError, match=r"model\.(gguf|onnx) does not load: .+") as error:
        opened(folder)
    assert "does not say why" not in str(error.value)


def test_a_model_that_computes_no_numbers_is_not_served(tiny, tmp_path):
    weights = tiny.parrot_weights()
    weights["output"][0, 0] = np.nan
    with pytest.raises(ModelError, match="not numbers"):
        opened(tiny.make_artifact(tmp_path / "artifact", "gguf", weights))


def test_a_tokenizer_of_another_model_is_noticed(tiny, folder):
    tokenizer, _, _ = tiny.make_tokenizer()
    tokenizer.add_tokens(["one", "more"])
    tokenizer.save(str(folder / "tokenizer.json"))
    with pytest.raises(ModelError, match="the tokenizer has 322 tokens, the model only 320"):
        opened(folder)


def test_no_context_beyond_the_trained_one(tiny, tmp_path):
    made = tiny.make_artifact(tmp_path / "artifact", "gguf", tiny.parrot_weights(), context=32769)
    with pytest.raises(ModelError, match="32769 tokens was asked for; the model knows 32768"):
        opened(made)


def test_an_onnx_model_needs_a_tokenizer(tiny, tmp_path):
    made = tiny.make_artifact(tmp_path / "artifact", "onnx", tiny.parrot_weights(), tokenizer=None)
    with pytest.raises(ModelError, match="onnx with none"):
        opened(made)


def test_a_folder_that_is_no_artifact_is_named(tmp_path):
    with pytest.raises(ModelError, match="not an artifact folder"):
        describe(tmp_path)
    (tmp_path / FILE_NAME).write_text("{}")
    with pytest.raises(IntegrityError):
        describe(tmp_path)


def test_a_gguf_without_tokenizer_json_reads_by_its_own_vocabulary(tiny, tmp_path):
    made = tiny.make_artifact(tmp_path / "artifact", "gguf", tiny.parrot_weights(), tokenizer=None)
    model = opened(made)
    assert model.vocabulary.bos == 0
    assert set(model.vocabulary.controls) == set(tiny.CONTROLS)
    assert answer(model, "<|assistant|>") == tiny.SENTENCE
    reference, _, _ = tiny.make_tokenizer()
    for text in ("other ino\n\nrather", "é 猫 🦜", "", "a<|end|>b"):
        ours = model.vocabulary.encode(text, begin=True, controls=True)
        assert ours == reference.encode(text).ids
        assert model.vocabulary.decode(ours) == reference.decode(ours)


def test_a_character_on_which_llama_cpp_would_abort_is_refused(tiny, tmp_path):
    made = tiny.make_artifact(tmp_path / "artifact", "gguf", tiny.parrot_weights(), tokenizer=None)
    tiny.write_gguf(made / "model.gguf", tiny.parrot_weights(), tokenizer=False)
    vocabulary = opened(made).vocabulary
    ids = vocabulary.encode("that a", begin=True, controls=True)
    assert vocabulary.decode(ids) == "that a"
    assert vocabulary.encode("<|end|>", begin=False, controls=True)[-1] == vocabulary.controls["<|end|>"]
    for text in ("a+b", "it\u2019s", "🦜", "A", "<|end|>"):
        with pytest.raises(RefusedError, match="the model's vocabulary has no"):
            vocabulary.encode(text, begin=True, controls=False)
