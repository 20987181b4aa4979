"""Give memory back that was zeroed and not used yet, as the room for keys and values is when it is made.

It does not know what the memory is for. The kernel gives a page of zeros again when one is touched, so that a
large room costs what of it is in use.

Law: what is read afterwards is what was there before: only pages that are all zeros go, of private anonymous
memory that appeared while `making` ran, and that nobody else writes to meanwhile.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

LARGE = 8 << 20
"""Bytes of the smallest new memory that is looked through."""
PIECE = 1 << 20
"""Bytes that are looked at, and given back, together."""
NAMELESS = 5
"""Words of a line of /proc/self/maps without a file's name."""
MADV_DONTNEED = 4
RESET_PEAK = "5"
"""Makes the kernel forget the highest resident size there was: it was never that of what is in use."""
Span = tuple[int, int]
_libc = ctypes.PyDLL(None)
_libc.memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


@contextmanager
def making() -> Iterator[None]:
    """Give back what of the large mappings that the block makes is zeros; nothing where the kernel cannot."""
    before = list(_anonymous())
    yield
    for start, end in without(_anonymous(), before):
        for at in range(start, end - PIECE + 1, PIECE):
            if end - start >= LARGE and _is_zeros(at):
                _libc.madvise(at, PIECE, MADV_DONTNEED)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text(RESET_PEAK, encoding="ascii")


def without(spans: Iterable[Span], others: Sequence[Span]) -> Iterator[Span]:
    """Yield what of the spans is in none of the others; both are sorted, and overlap with the other alone."""
    for start, end in spans:
        at = start
        for first, last in others:
            if last <= at or first >= end:
                continue
            if first > at:
                yield at, first
            at = last
        if at < end:
            yield at, end


def _is_zeros(at: int) -> bool:
    first = ctypes.c_char.from_address(at).value
    return first == b"\0" and _libc.memcmp(at, at + 1, PIECE - 1) == 0


def _anonymous() -> Iterator[Span]:
    """Yield the mappings that are this process's alone, written to, and of no file; sorted."""
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        words = line.split()
        if words[1] == "rw-p" and len(words) == NAMELESS:
            start, end = words[0].split("-")
            yield int(start, 16), int(end, 16)
