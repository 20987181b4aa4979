"""Model files whose header cannot be true are not published."""

import struct

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.errors import ModelError
from slmops.registry.check_model import check_model

HUGE = 2**63
HEAD = b"GGUF" + struct.pack("<I", 3)


def text(said):
    return struct.pack("<Q", len(said)) + said


def tensor(name=b"w", shape=(32,), kind=0, place=0):
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, place)


def model(tensors=1, keys=0, listed=b"", data=b"\0" * 128):
    before = HEAD + struct.pack("<QQ", tensors, keys) + listed
    return before + b"\0" * (-len(before) % 32) + data


HOSTILE = {
    "more tensors than there are": model(tensors=HUGE, listed=tensor()),
    "more keys than there are": model(keys=HUGE, listed=tensor()),
    "a name without an end": model(listed=struct.pack("<Q", HUGE) + tensor()[8:]),
    "a text without an end": model(keys=1, listed=text(b"k") + struct.pack("<IQ", 8, 2**64 - 1)),
    "a list without an end": model(keys=1, listed=text(b"k") + struct.pack("<IIQ", 9, 12, 2**64 - 1)),
    "too many dimensions": model(listed=text(b"w") + struct.pack("<I", 2**31)),
    "a tensor that begins outside": model(listed=tensor(place=HUGE)),
    "a tensor that ends outside": model(listed=tensor(shape=(2**31, 2**31))),
    "two tensors in one place": model(tensors=2, listed=tensor() + tensor(b"x")),
    "another version": b"GGUF" + struct.pack("<IQQ", 99, 0, 0),
    "the magic alone": b"GGUF",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_header_that_cannot_be_true_is_refused(tmp_path, what):
    path = tmp_path / "model.gguf"
    path.write_bytes(HOSTILE[what])

    with pytest.raises(ModelError, match=r"model\.gguf begins as a GGUF file, and its header is broken"):
        check_model(path)


@given(data=st.binary(max_size=300))
def test_whatever_follows_the_magic_is_taken_or_refused_and_nothing_else(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any.gguf"
    path.write_bytes(HEAD + data)

    with pytest.raises(ModelError):
        check_model(path)


@pytest.mark.parametrize("data", [model(listed=tensor()), b"weights", b""])
def test_what_is_whole_or_no_gguf_passes(tmp_path, data):
    (tmp_path / "model.gguf").write_bytes(data)

    check_model(tmp_path / "model.gguf")


def test_a_real_model_passes_and_its_torn_half_does_not(tmp_path):
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["a", "b"])
    for name in ("one", "two"):
        writer.add_tensor(name, np.ones((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    check_model(path)
    path.write_bytes(path.read_bytes()[:-64])

    with pytest.raises(ModelError):
        check_model(path)
