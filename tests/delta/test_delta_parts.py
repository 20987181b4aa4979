import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants
from hypothesis import given, settings
from hypothesis import strategies as st

from slmops.build.scheme import GGML_TYPES
from slmops.delta import delta, rans
from slmops.delta.delta import ARGUMENTS, Header, Operation
from slmops.delta.fields import CODEBOOK, LAYOUTS, Fields
from slmops.delta.symbols import GROUPINGS, packed, unpacked
from slmops.errors import IntegrityError

numbers = st.integers(0, (1 << 56) - 1)


def as_bytes(data):
    return np.frombuffer(data, np.uint8)


@given(st.binary(max_size=600), st.sampled_from(GROUPINGS))
def test_differences_come_out_of_symbols_as_they_went_in(data, grouping):
    symbols, escapes = packed(as_bytes(data), grouping)
    assert unpacked(symbols, grouping, len(data), lambda count: escapes[:count]).tobytes() == data


@settings(max_examples=60)
@given(st.lists(st.binary(max_size=300), max_size=5), st.integers(1, 40))
def test_what_was_coded_backwards_is_decoded_forwards(texts, lanes):
    coded, tables = [], []
    encoder = rans.Encoder(lanes, coded.append)
    for text in texts:
        counts = np.bincount(as_bytes(text), minlength=256)
        tables.append(rans.shares(counts) if text else None)
    for text, table in reversed(list(zip(texts, tables, strict=True))):
        if text:
            encoder.put(as_bytes(text), table)
    encoder.finish()
    stream = b"".join(reversed(coded))
    states, words = stream[: lanes * rans.STATE_BYTES], stream[lanes * rans.STATE_BYTES :]
    left = np.frombuffer(words, "<u4").copy()
    place = 0

    def take(count):
        nonlocal place
        place += count
        return left[place - count : place]

    decoder = rans.Decoder(states, take)
    for text, table in zip(texts, tables, strict=True):
        if text:
            assert decoder.get(len(text), rans.lookup(table)).tobytes() == text
    decoder.finish()
    assert place == len(left)


@given(st.lists(st.integers(0, 1 << 40), min_size=256, max_size=256).filter(any))
def test_shares_add_up_and_whatever_was_seen_has_one(counts):
    table = rans.shares(np.array(counts, np.int64))
    assert table.sum() == rans.WHOLE
    assert ((table > 0) == (np.array(counts) > 0)).all()


@pytest.mark.parametrize("name", LAYOUTS)
@given(seed=st.integers(0, 1 << 30))
@settings(max_examples=10)
def test_blocks_come_out_of_their_fields_as_they_went_in(name, seed):
    layout = LAYOUTS[name]
    blocks = np.random.default_rng(seed).integers(0, 256, (7, layout.nbytes), np.uint8)
    fields, made = layout.split(blocks), np.empty_like(blocks)
    layout.join(fields, made)
    assert (made == blocks).all()
    assert fields.codes.max() < layout.codes
    assert name not in GGML_TYPES or GGML_TYPES[name].nbytes == layout.nbytes


@pytest.mark.parametrize("name", [name for name, layout in LAYOUTS.items() if not layout.lattice])
def test_fields_mean_the_weights_that_ggml_reads_in_them(name):
    layout, rng = LAYOUTS[name], np.random.default_rng(5)
    blocks = rng.integers(0, 256, (20, layout.nbytes), np.uint8)
    fields = layout.split(blocks)
    halves = rng.normal(size=fields.halves.shape[:2]).astype("<f2")
    layout.join(Fields(halves.view(np.uint8).reshape(fields.halves.shape), *fields[1:]), blocks)
    number = halves.astype(np.float32)
    scale = number[:, :1] * (fields.scales - np.float32(layout.scale_middle) if layout.scale_codes else 1)
    code = CODEBOOK[fields.codes] if layout.codebook else fields.codes - np.float32(layout.middle)
    weights = scale[:, :, None] * code
    if number.shape[1] > 1:
        least = number[:, 1:] * (fields.leasts.astype(np.float32) if layout.scale_codes else 1)
        weights -= layout.sign * least[:, :, None]
    read = quants.dequantize(blocks.reshape(-1), GGMLQuantizationType[name]).reshape(20, -1)
    assert weights.reshape(20, -1) == pytest.approx(read, rel=1e-5, abs=1e-6)


operations = st.sampled_from(sorted(ARGUMENTS)).flatmap(
    lambda kind: st.builds(
        Operation,
        st.just(kind),
        st.integers(0, 1 << 40),
        st.just(0) if kind in delta.BASELESS else st.integers(0, 1 << 40),
        st.tuples(*[numbers] * len(ARGUMENTS[kind])),
    )
)


@given(st.lists(operations, max_size=8))
def test_operations_are_read_as_they_were_written(said):
    assert list(delta.parse_operations(delta.write_operations(said))) == said


sizes = st.integers(0, 1 << 40)
sections = st.tuples(sizes, st.just(0) | sizes).map(lambda pair: (pair[0], pair[0] + pair[1]))


@given(st.builds(Header, numbers, numbers, numbers, numbers, st.tuples(*[sections] * delta.SECTIONS)))
def test_a_header_is_read_as_it_was_written(header):
    written = delta.write_header(header)
    assert delta.parse_header(written + b"more") == (header, len(written))
    assert len(written) <= delta.MOST_HEADER


@given(st.binary(max_size=200))
def test_garbage_is_no_header_no_operations_and_no_tables(data):
    for parse in (
        lambda: delta.parse_header(data),
        lambda: delta.parse_header(delta.MAGIC + data),
        lambda: list(delta.parse_operations(data)),
        lambda: delta.parse_tables(data, rans.WHOLE),
    ):
        try:
            parse()
        except IntegrityError:
            continue
