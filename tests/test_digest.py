"""A sha256 that can print, parse and check itself."""

import hashlib
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops import digest as digests
from slmops.errors import IntegrityError

HEX = "0123456789abcdef" * 4


@given(st.binary(max_size=200))
def test_a_digest_is_read_back_as_it_was_printed(data):
    digest = digests.of_bytes(data)

    assert digests.parse(digest) == digest
    assert digest == "sha256:" + hashlib.sha256(data).hexdigest()


@given(st.lists(st.binary(max_size=50)))
def test_bytes_in_pieces_have_the_digest_of_the_whole(pieces):
    assert digests.of_pieces(pieces) == digests.of_bytes(b"".join(pieces))


@pytest.mark.parametrize("size", [0, 1, digests.PIECE - 1, digests.PIECE, digests.PIECE + 1])
def test_a_file_has_the_digest_of_its_bytes(tmp_path, size):
    (tmp_path / "blob").write_bytes(bytes(size))

    assert digests.of_file(tmp_path / "blob") == digests.of_bytes(bytes(size))


def test_pieces_begin_where_the_file_stands():
    file = io.BytesIO(b"abc" + bytes(digests.PIECE))
    file.read(3)

    assert [len(piece) for piece in digests.pieces(file)] == [digests.PIECE]


@given(st.binary(max_size=50))
def test_hex_digits_are_safe_in_a_path_and_the_short_form_begins_them(data):
    digest = digests.of_bytes(data)

    assert digests.hexdigits(digest) == digest.removeprefix("sha256:")
    assert digests.hexdigits(digest).startswith(digests.short(digest))
    assert len(digests.short(digest)) == 12


@pytest.mark.parametrize(
    "text",
    [
        "",
        HEX,
        f"sha256:{HEX[1:]}",
        f"sha256:{HEX}0",
        f"sha256:{HEX.upper()}",
        f"sha512:{HEX}",
        f"sha256:{HEX}\n",
        f" sha256:{HEX}",
        f"sha256:../../{HEX[6:]}",
    ],
)
@pytest.mark.parametrize("read", [digests.parse, digests.hexdigits, digests.short])
def test_what_is_no_digest_is_refused_and_shown(read, text):
    with pytest.raises(IntegrityError, match="not a digest: expected sha256:<64 hex digits>, got ") as told:
        read(text)

    assert repr(text[:80]) in str(told.value)
