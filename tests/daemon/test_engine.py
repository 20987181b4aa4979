"""Both runtimes keep the laws of engines: several sequences, what they share, and what is forgotten."""

import json

import llama_cpp
import numpy as np
import pytest

from slmops.build.checkpoint import open_checkpoint
from slmops.build.quantize_gguf import quantize_gguf
from slmops.daemon.describe import read
from slmops.daemon.engine import Part, Shape
from slmops.daemon.llama import LlamaEngine, LlamaModel
from slmops.daemon.load import Want, load
from slmops.daemon.vectors import Vectors

CONTEXT = 128


def engine_of(folder, **want):
    return load(folder, read(str(folder)).description, Want(**want)).engine


@pytest.fixture(scope="module", params=["gguf", "onnx"])
def folder(request, tiny, tmp_path_factory):
    made = tmp_path_factory.mktemp("made") / "random"
    return tiny.make_artifact(made, request.param, tiny.random_weights(), context=CONTEXT)


@pytest.fixture(params=[CONTEXT, 3 * CONTEXT], ids=["one pool", "a room each"])
def engine(folder, request):
    return engine_of(folder, slots=3, pool=request.param)


def some(count, seed=3):
    return np.random.default_rng(seed).integers(0, 320, count).tolist()


def read_all(engine, sequence, ids):
    for at in range(0, len(ids), engine.stride):
        stride = ids[at : at + engine.stride]
        (logits,) = engine.read([Part(sequence, stride, at + len(stride) == len(ids))])
    return logits.copy()


def vector_of(engine, ids, *, between=lambda: None):
    """The vector of a text, read in strides into a sequence that is empty afterwards."""
    vectors, whole = Vectors([ids]), False
    while not whole:
        stride = ids[vectors.read : vectors.read + engine.outputs]
        whole = vectors.hear(len(stride), engine.embed(1, stride))
        between()
    engine.keep(1, 0)
    return np.array(vectors.found[0], np.float32)


def plain_states(file, ids):
    """What llama.cpp by itself computes of ids in one go."""
    model, wanted = LlamaModel(file), llama_cpp.llama_context_default_params()
    wanted.n_ctx = wanted.n_batch = wanted.n_ubatch = CONTEXT
    wanted.pooling_type, wanted.embeddings, wanted.n_threads = llama_cpp.LLAMA_POOLING_TYPE_NONE, True, 1
    context = llama_cpp.llama_init_from_model(model.pointer, wanted)
    tokens = (llama_cpp.llama_token * len(ids))(*ids)
    assert llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(tokens, len(ids))) == 0
    found = llama_cpp.llama_get_embeddings(context)
    states = np.ctypeslib.as_array(found, (len(ids), llama_cpp.llama_model_n_embd_out(model.pointer))).copy()
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model.pointer)
    return states


def test_an_engine_says_how_much_it_holds(engine):
    assert (engine.slots, engine.context, engine.vocabulary) == (3, CONTEXT, 320)
    assert engine.sequences == (engine.slots if engine.apart else 2 * engine.slots)
    assert engine.pool == 3 * CONTEXT or not engine.apart


def test_a_pool_may_be_larger_than_a_context(folder):
    engine = engine_of(folder, slots=3, pool=3 * CONTEXT)
    for sequence in range(3):
        read_all(engine, sequence, some(CONTEXT))
    assert (engine.pool, engine.context) == (3 * CONTEXT, CONTEXT)


def test_logits_that_are_not_wanted_are_not_made(engine):
    assert engine.read([Part(0, some(3), False)]) == [None]


def test_what_steps_together_is_as_if_it_stepped_alone(engine):
    prompts = [some(20 + at, at) for at in range(3)]
    for sequence, prompt in enumerate(prompts):
        read_all(engine, sequence, prompt)
    first = [logits.copy() for logits in engine.step([(0, 5), (1, 6), (2, 7)])]
    # Some leave, one goes on: it must not matter who is there.
    (second,) = [logits.copy() for logits in engine.step([(1, 8)])]
    for sequence in range(3):
        engine.keep(sequence, 0)
    for found, prompt, token in zip(first, prompts, (5, 6, 7), strict=True):
        assert found == pytest.approx(read_all(engine, 0, [*prompt, token]), abs=0.1)
        engine.keep(0, 0)
    assert second == pytest.approx(read_all(engine, 0, [*prompts[1], 6, 8]), abs=0.1)


def test_what_was_shared_is_as_if_it_had_been_read(engine):
    prompt = some(40)
    read_all(engine, 0, [*prompt[:30], *some(5, 9)])
    assert engine.share(0, 1, 30) == 30
    engine.keep(0, 0)
    shared = read_all(engine, 1, prompt[30:])
    assert shared == pytest.approx(read_all(engine, 2, prompt), abs=0.1)


def test_prompts_that_are_read_together_are_as_if_they_were_read_alone(engine):
    prompts = [some(count, count) for count in (9, 21, 5)[: engine.parts]]
    half = [Part(at, prompt[:4], False) for at, prompt in enumerate(prompts)]
    rest = [Part(at, prompt[4:], at != 1) for at, prompt in enumerate(prompts)]
    assert engine.read(half) == [None] * len(prompts)
    found = [None if logits is None else logits.copy() for logits in engine.read(rest)]
    for at, (logits, prompt) in enumerate(zip(found, prompts, strict=True)):
        engine.keep(at, 0)
        alone = read_all(engine, at, prompt)
        assert logits is None if at == 1 else logits == pytest.approx(alone, abs=0.1)


def test_sequences_change_places_and_nothing_else_changes(engine):
    if not engine.apart:
        pytest.skip("its sequences share a pool")
    prompts = {0: some(20, 1), 2: some(33, 2)}
    for sequence, prompt in prompts.items():
        read_all(engine, sequence, prompt)
    for one, other in ((0, 1), (2, 0)):
        engine.exchange(one, other)
    first, second = (logits.copy() for logits in engine.step([(0, 5), (1, 6)]))
    for sequence in range(3):
        engine.keep(sequence, 0)
    assert first == pytest.approx(read_all(engine, 0, [*prompts[2], 5]), abs=0.1)
    assert second == pytest.approx(read_all(engine, 1, [*prompts[0], 6]), abs=0.1)


def test_what_was_forgotten_is_as_if_it_had_never_been(engine):
    prompt = some(40)
    read_all(engine, 0, [*prompt[:33], *some(5, 9)])
    assert engine.keep(0, 33) == 33
    assert engine.keep(0, 50) == 33
    assert read_all(engine, 0, prompt[33:]) == pytest.approx(read_all(engine, 1, prompt), abs=0.1)


def test_alone_in_an_empty_engine_an_answer_is_the_same_to_the_last_bit(engine, folder):
    prompt, fresh = some(60), engine_of(folder, slots=3, pool=engine.pool)
    read_all(engine, 1, some(31, 1))
    read_all(engine, 0, some(17, 2))
    engine.step([(0, 4), (1, 5)])
    engine.share(1, 2, 20)
    for sequence in range(3):
        engine.keep(sequence, 0)
    assert np.array_equal(read_all(engine, 2, prompt), read_all(fresh, 0, prompt))
    for token in (3, 4, 5):
        (ours,), (theirs,) = engine.step([(2, token)]), fresh.step([(0, token)])
        assert np.array_equal(ours, theirs)


def test_where_each_has_a_room_nobody_who_is_kept_changes_a_bit_of_what_is_read_alone(engine, folder):
    if not engine.apart:
        pytest.skip("its sequences share a pool")
    prompt, fresh = some(60), engine_of(folder, slots=3, pool=engine.pool)
    read_all(engine, 0, some(100, 1))
    read_all(engine, 2, some(90, 2))
    engine.keep(2, 0)
    assert np.array_equal(read_all(engine, 2, prompt), read_all(fresh, 0, prompt))
    for token in (3, 4, 5):
        (ours,), (theirs,) = engine.step([(2, token)]), fresh.step([(0, token)])
        assert np.array_equal(ours, theirs)


def test_the_whole_pool_can_be_used(engine):
    for sequence in range(3):
        read_all(engine, sequence, some(CONTEXT // 4, sequence))
    for at in range(CONTEXT // 12):
        engine.step([(sequence, at) for sequence in range(3)])
    for sequence in range(3):
        engine.keep(sequence, 0)
    read_all(engine, 2, some(CONTEXT))


def test_texts_that_mean_alike_have_like_vectors(engine):
    if not engine.width:
        pytest.skip("its graph says logits alone")
    text = some(50)
    read_all(engine, 0, some(20))
    vector, near, far = (vector_of(engine, ids) for ids in (text, [*text[:-1], 4], some(50, 8)))
    assert np.linalg.norm(vector) == pytest.approx(1)
    assert vector @ near > vector @ far
    assert np.array_equal(vector_of(engine, text), vector)
    # It left nothing behind.
    assert read_all(engine, 1, some(CONTEXT - 20)).shape == (320,)


@pytest.mark.parametrize("length", [1, 15, 16, 17, CONTEXT])
def test_a_vector_is_the_mean_of_llama_cpps_own_states_however_the_text_was_cut(folder, engine, length):
    if not engine.width:
        pytest.skip("its graph says logits alone")
    text = some(length)
    mean = np.mean(plain_states(folder / "model.gguf", text), axis=0)
    expected = mean / np.linalg.norm(mean)
    assert vector_of(engine, text) == pytest.approx(expected, abs=1e-3)
    if length < CONTEXT or engine.apart:
        # Also where an answer is being written in between.
        read_all(engine, 0, some(9))
        found = vector_of(engine, text, between=lambda: engine.step([(0, 5)]))
        assert found == pytest.approx(expected, abs=1e-3)


def test_a_vector_is_the_mean_of_what_each_token_comes_to(tiny, tmp_path):
    made = tiny.make_artifact(tmp_path / "parrot", "gguf", tiny.parrot_weights(), context=CONTEXT)
    vector = vector_of(engine_of(made), [7, 8, 7, 9] * 10)
    # The parrot's states are its tokens.
    assert {int(at) for at in np.argsort(-vector)[:3]} == {7, 8, 9}
    assert vector[7] == pytest.approx(2 * vector[8], rel=1e-3)


@pytest.fixture(scope="module")
def windowed(tiny, tmp_path_factory):
    """A Gemma of which most layers see 64 tokens alone."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("gemma")
    torch.manual_seed(5)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16, "query_pre_attn_scalar": 16}
    heads = {"num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 2}
    said = {"max_position_embeddings": 512, "sliding_window": 64, "initializer_range": 0.2}
    tokens = {"vocab_size": 320, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    config = transformers.Gemma3TextConfig(**sizes, **heads, **said, **tokens, tie_word_embeddings=True)
    transformers.Gemma3ForCausalLM(config).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    tokenizer, _, _ = tiny.make_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<|begin|>", "eos_token": "<|end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names), encoding="utf-8")
    quantize_gguf(open_checkpoint(folder), "F32", folder / "model.gguf")
    return LlamaModel(folder / "model.gguf")


@pytest.mark.parametrize("length", [100, 280, 300])
@pytest.mark.parametrize("pool", [1024, 3 * 512])
def test_what_a_window_has_passed_is_not_begun_with(windowed, pool, length):
    prompt, more = some(300), some(20, 4)

    def read_on(engine, sequence, got):
        return read_all(engine, sequence, [*prompt[got:length], *more])

    engine = LlamaEngine(windowed, Shape(512, pool, 3, 512, 1))
    read_all(engine, 2, some(100, 9))
    read_all(engine, 0, prompt)
    # What others read afterwards may lie where the window has been.
    read_all(engine, 2, some(100, 8))
    shared = read_on(engine, 1, engine.share(0, 1, length))
    shortened = read_on(engine, 0, engine.keep(0, length))
    fresh = read_on(LlamaEngine(windowed, Shape(512, pool, 3, 512, 1)), 0, 0)
    assert shared == pytest.approx(fresh, abs=0.02)
    assert shortened == pytest.approx(fresh, abs=0.02)
