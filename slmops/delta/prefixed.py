"""Pack bytes as if a piece of the base had come before them: LZMA2 with a preset dictionary.

Operator side. Python's lzma module can unpack that but not make it; so this asks the liblzma that the module
itself is linked with. Where that cannot be found, nothing is packed this way.

Laws: `sections.primed_unpacker` unpacks what comes out, on any machine.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
from typing import Any

_LZMA2, _END = 0x21, (1 << 64) - 1
_PRESET = 9 | 1 << 31
"""Level 9, and slower still for some bytes less."""
_OPTIONS_BYTES = 256
"""More than lzma_options_lzma takes, its reserve included."""


class _Options(ctypes.Structure):
    """The beginning of lzma_options_lzma (lzma/lzma12.h)."""

    _fields_ = (
        ("dict_size", ctypes.c_uint32),
        ("preset_dict", ctypes.c_char_p),
        ("preset_dict_size", ctypes.c_uint32),
        ("lc", ctypes.c_uint32),
        ("lp", ctypes.c_uint32),
        ("pb", ctypes.c_uint32),
        ("reserve", ctypes.c_char * _OPTIONS_BYTES),
    )


class _Filter(ctypes.Structure):
    """lzma_filter (lzma/filter.h)."""

    _fields_ = (("id", ctypes.c_uint64), ("options", ctypes.c_void_p))


def pack_after(before: bytes, data: bytes, *, text: bool) -> bytes | None:
    """Return `data` packed as if `before` had come first; None where this Python's liblzma is out of reach.

    `text` says that bytes do not come in fours.
    """
    library = _library()
    options = _Options()
    if library is None or library.lzma_lzma_preset(ctypes.byref(options), ctypes.c_uint32(_PRESET)):
        return None
    options.dict_size = max(len(before) + len(data), 4096)
    options.preset_dict, options.preset_dict_size = before or None, len(before)
    if text:
        options.lc, options.pb = 4, 0
    chain = (_Filter * 2)(_Filter(_LZMA2, ctypes.addressof(options)), _Filter(_END, None))
    made = ctypes.create_string_buffer(len(data) + len(data) // 1000 + 1024)
    end = ctypes.c_size_t(0)
    size = ctypes.c_size_t
    failed = library.lzma_raw_buffer_encode(
        chain, None, data, size(len(data)), made, ctypes.byref(end), size(len(made))
    )
    return None if failed else made.raw[: end.value]


@functools.lru_cache(maxsize=1)
def _library() -> Any | None:
    try:
        library = ctypes.CDLL(importlib.import_module("_lzma").__file__)
        needed = library.lzma_raw_buffer_encode, library.lzma_lzma_preset
    except (ImportError, OSError, AttributeError, TypeError):
        return None
    return library if all(needed) else None
