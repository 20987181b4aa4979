"""What ONNX Runtime computes of several sequences, and what it leaves behind."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.daemon.engine import Part, Shape
from slmops.daemon.onnx import SHORT, OnnxEngine, companies
from slmops.errors import ModelError

CONTEXT, STRIDE, SLOTS, CLOSE = 300, 32, 4, 1e-4
PROMPTS = {
    sequence: [(7 * sequence + at) % 300 for at in range(length)]
    for sequence, length in enumerate((8, 70, 20))
}


@pytest.fixture(scope="module")
def files(tiny, tmp_path_factory):
    """Graphs of one random model: as optimum exports it, for one row alone, and without positions."""
    folder, weights = tmp_path_factory.mktemp("graphs"), tiny.random_weights()
    ways = {"rows": {}, "row": {"rows": 1}, "unplaced": {"positions": False}}
    for name, way in ways.items():
        tiny.write_onnx(folder / f"{name}.onnx", weights, **way)
    return {name: folder / f"{name}.onnx" for name in ways}


def opened(file, pool=4 * CONTEXT):
    return OnnxEngine(file, Shape(context=CONTEXT, pool=pool, slots=SLOTS, stride=STRIDE, threads=1))


def read(engine, sequence, ids):
    logits = None
    for at in range(0, len(ids), STRIDE):
        (logits,) = engine.read([Part(sequence, ids[at : at + STRIDE], True)])
    return logits.copy()


def alone(file, ids, tokens):
    """The logits after each of `tokens`, when nobody else is there."""
    engine = opened(file)
    read(engine, 0, ids)
    return [engine.step([(0, token)])[0].copy() for token in tokens]


def stepped(engine, *rows):
    return [logits.copy() for logits in engine.step(rows)]


def together(engine, tokens):
    """The logits of each sequence after each of its `tokens`, when all take their steps together."""
    found = {sequence: [] for sequence in tokens}
    for row in zip(*tokens.values(), strict=True):
        for sequence, logits in zip(tokens, stepped(engine, *zip(tokens, row, strict=True)), strict=True):
            found[sequence].append(logits)
    return found


@pytest.mark.parametrize("way", ["rows", "row", "unplaced"])
def test_sequences_of_different_lengths_step_together_as_each_does_alone(files, way):
    engine = opened(files[way])
    for sequence, ids in PROMPTS.items():
        read(engine, sequence, ids)
    tokens = {sequence: [sequence + 40, 50, 60] for sequence in PROMPTS}

    for sequence, found in together(engine, tokens).items():
        assert np.allclose(found, alone(files["rows"], PROMPTS[sequence], tokens[sequence]), atol=CLOSE)


def test_who_joins_and_who_leaves_changes_nothing_for_the_others(files):
    engine = opened(files["rows"])
    for sequence in (0, 1):
        read(engine, sequence, PROMPTS[sequence])
    stepped(engine, (0, 40), (1, 40))
    read(engine, 2, PROMPTS[2])
    stepped(engine, (2, 40), (0, 50), (1, 50))
    engine.keep(1, 0)
    last = stepped(engine, (0, 60), (2, 50))

    assert np.allclose(last[0], alone(files["rows"], PROMPTS[0], [40, 50, 60])[-1], atol=CLOSE)
    assert np.allclose(last[1], alone(files["rows"], PROMPTS[2], [40, 50])[-1], atol=CLOSE)


def test_one_sequence_is_the_same_to_the_last_bit_whoever_else_is_there(files):
    engine = opened(files["rows"])
    read(engine, 1, PROMPTS[1])
    first = read(engine, 3, PROMPTS[2])
    steps = [stepped(engine, (3, token))[0] for token in (40, 50)]

    fresh = opened(files["rows"])
    assert np.array_equal(first, read(fresh, 0, PROMPTS[2]))
    assert np.array_equal(steps, alone(files["rows"], PROMPTS[2], [40, 50]))


def test_the_cache_of_a_company_is_not_made_anew_while_the_same_ones_step(files):
    engine = opened(files["rows"])
    for sequence, ids in PROMPTS.items():
        read(engine, sequence, ids)
    stepped(engine, *((sequence, 40) for sequence in PROMPTS))
    company = engine._homes[0]
    stepped(engine, *((sequence, 50) for sequence in reversed(PROMPTS)))

    assert company is engine._homes[0] is engine._homes[1]
    assert company.members == (1, 2, 0)


def test_what_is_kept_of_a_sequence_goes_on_as_if_the_rest_had_never_been(files):
    engine = opened(files["rows"])
    for sequence, ids in PROMPTS.items():
        read(engine, sequence, ids)
    stepped(engine, (0, 40), (1, 40), (2, 40))

    assert engine.keep(2, 9) == 9
    assert engine.keep(0, 99) == 9
    (found,) = stepped(engine, (2, 50))
    assert np.allclose(found, alone(files["rows"], PROMPTS[2][:9], [50])[0], atol=CLOSE)


def test_a_sequence_begins_with_what_it_shares_and_both_go_their_own_way(files):
    engine = opened(files["rows"])
    read(engine, 1, PROMPTS[1])

    assert engine.share(1, 0, 33) == 33
    ours, theirs = stepped(engine, (0, 40), (1, 50))
    assert np.allclose(ours, alone(files["rows"], PROMPTS[1][:33], [40])[0], atol=CLOSE)
    assert np.allclose(theirs, alone(files["rows"], PROMPTS[1], [50])[0], atol=CLOSE)


def test_the_pool_bounds_the_tokens_of_all_sequences(files):
    engine = opened(files["rows"], pool=80)
    read(engine, 1, PROMPTS[1])

    assert engine.share(1, 0, 33) == 0
    with pytest.raises(ModelError, match="70 tokens are in the pool of 80; 20 more have no room"):
        engine.read([Part(2, PROMPTS[2], True)])
    engine.keep(1, 0)
    assert engine.read([Part(2, PROMPTS[2], False)]) == [None]


def test_a_decoder_has_no_embeddings(files):
    engine = opened(files["rows"])
    assert engine.width == 0
    with pytest.raises(ModelError, match="nothing but logits"):
        engine.embed(0, [1, 2])


@given(st.dictionaries(st.integers(0, 15), st.integers(0, 4000), min_size=1), st.booleans())
def test_every_sequence_is_in_one_company_and_no_row_is_mostly_padding(lengths, padded):
    found = companies(lengths, padded=padded)

    assert sorted(sequence for members in found for sequence in members) == sorted(lengths)
    for members in found:
        width = lengths[members[0]]
        padding = [width - lengths[sequence] for sequence in members]
        assert all(0 <= each <= max(lengths[who], SHORT) for each, who in zip(padding, members, strict=True))
        assert padded or not any(padding)


def test_a_model_that_was_loaded_leaves_nothing_in_the_home(tiny, tmp_path):
    folder = tiny.make_artifact(tmp_path / "parrot", "onnx", tiny.parrot_weights())
    home = tmp_path / "home"
    home.mkdir()
    # Where it thinks to be tested it keeps nothing by itself.
    quiet = ("CI", "GITHUB_ACTIONS", "TF_BUILD", "XDG_CACHE_HOME", "ORT_DISABLE_TELEMETRY")
    environment = {name: said for name, said in os.environ.items() if name not in quiet}
    code = (
        "import sys; from pathlib import Path; from slmops.daemon.onnx import OnnxEngine; "
        "from slmops.daemon.engine import Part, Shape; "
        "OnnxEngine(Path(sys.argv[1]), Shape(64, 64, 1, 8, 1)).read([Part(0, [1], True)])"
    )

    subprocess.run(
        [sys.executable, "-c", code, folder / "model.onnx"],
        env={**environment, "HOME": str(home)},
        cwd=Path(__file__).parents[2],
        check=True,
    )

    assert list(home.iterdir()) == []
