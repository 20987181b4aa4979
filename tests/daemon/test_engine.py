"""Both runtimes keep the laws of engines: several sequences, what they share, and what is forgotten."""

import numpy as np
import pytest

from slmops.daemon.describe import read
from slmops.daemon.load import Want, load
from slmops.daemon.refusal import RefusedError

CONTEXT = 128


def engine_of(folder, **want):
    return load(folder, read(str(folder)).description, Want(**want)).engine


@pytest.fixture(scope="module", params=["gguf", "onnx"])
def folder(request, tiny, tmp_path_factory):
    made = tmp_path_factory.mktemp("made") / "random"
    return tiny.make_artifact(made, request.param, tiny.random_weights(), context=CONTEXT)


@pytest.fixture
def engine(folder):
    return engine_of(folder, slots=3)


def some(count, seed=3):
    return np.random.default_rng(seed).integers(0, 320, count).tolist()


def read_all(engine, sequence, ids):
    for at in range(0, len(ids), engine.stride):
        stride = ids[at : at + engine.stride]
        logits = engine.read(sequence, stride, at + len(stride) == len(ids))
    return logits.copy()


def test_an_engine_says_how_much_it_holds(engine):
    assert (engine.slots, engine.context, engine.pool, engine.vocabulary) == (3, CONTEXT, CONTEXT, 320)
    assert engine.sequences > engine.slots


def test_a_pool_may_be_larger_than_a_context(folder):
    engine = engine_of(folder, slots=3, pool=3 * CONTEXT)
    for sequence in range(3):
        read_all(engine, sequence, some(CONTEXT))
    assert (engine.pool, engine.context) == (3 * CONTEXT, CONTEXT)


def test_logits_that_are_not_wanted_are_not_made(engine):
    assert engine.read(0, some(3), False) is None


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


def test_what_was_forgotten_is_as_if_it_had_never_been(engine):
    prompt = some(40)
    read_all(engine, 0, [*prompt[:33], *some(5, 9)])
    assert engine.keep(0, 33) == 33
    assert engine.keep(0, 50) == 33
    assert read_all(engine, 0, prompt[33:]) == pytest.approx(read_all(engine, 1, prompt), abs=0.1)


def test_alone_in_an_empty_engine_an_answer_is_the_same_to_the_last_bit(engine, folder):
    prompt, fresh = some(60), engine_of(folder, slots=3)
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


def test_the_whole_pool_can_be_used(engine):
    for sequence in range(3):
        read_all(engine, sequence, some(CONTEXT // 4, sequence))
    for at in range(CONTEXT // 12):
        engine.step([(sequence, at) for sequence in range(3)])
    for sequence in range(3):
        engine.keep(sequence, 0)
    read_all(engine, 2, some(CONTEXT))


def test_texts_that_mean_alike_have_like_vectors(engine, folder):
    if folder.joinpath("model.onnx").exists():
        with pytest.raises(RefusedError, match="no embeddings"):
            engine.embed(some(4))
        return
    text = some(50)
    read_all(engine, 0, some(20))
    vector, near, far = (engine.embed(ids) for ids in (text, [*text[:-1], 4], some(50, 8)))
    assert np.linalg.norm(vector) == pytest.approx(1)
    assert vector @ near > vector @ far
    assert np.array_equal(engine.embed(text), vector)
    # It left nothing behind.
    assert read_all(engine, 1, some(CONTEXT - 20)).shape == (320,)


def test_a_vector_is_the_mean_of_what_each_token_comes_to(tiny, tmp_path):
    made = tiny.make_artifact(tmp_path / "parrot", "gguf", tiny.parrot_weights(), context=CONTEXT)
    vector = engine_of(made).embed([7, 8, 7, 9] * 10)
    # The parrot's states are its tokens.
    assert {int(at) for at in np.argsort(-vector)[:3]} == {7, 8, 9}
    assert vector[7] == pytest.approx(2 * vector[8], rel=1e-3)
