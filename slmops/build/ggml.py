"""ggml's own quantiser, from the shared library inside llama-cpp-python.

The door to that library: rows of float32 in, the bytes of a ggml type out. Knows no files and no names.

Laws: rows do not depend on each other, so neither the number of cores nor the size of a piece changes
a byte; a value that the type cannot hold is an error; `import llama_cpp` is not needed.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from slmops.build.scheme import GGML_TYPES
from slmops.errors import BuildError, MissingPartError

PIP_LINE = 'Run `pip install "llama-cpp-python==0.3.36"` (it compiles: a C++ compiler and cmake are needed).'
_LIBRARY = {"darwin": "libggml-base.dylib", "win32": "ggml-base.dll"}.get(sys.platform, "libggml-base.so")


class Quantizer:
    """Quantises on every core; a context manager, because it owns threads."""

    def __init__(self) -> None:
        """Load the library; raise MissingPartError if it is not there, BuildError if it is another format."""
        self._ggml = ctypes.CDLL(str(library()))
        self._ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
        pointers, counts = [ctypes.c_void_p] * 2, [ctypes.c_int64] * 3
        self._ggml.ggml_quantize_chunk.argtypes = [ctypes.c_int, *pointers, *counts, ctypes.c_void_p]
        self._ggml.ggml_validate_row_data.restype = ctypes.c_bool
        self._ggml.ggml_validate_row_data.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
        self._ggml.ggml_type_size.restype = ctypes.c_size_t
        self._ggml.ggml_blck_size.restype = ctypes.c_int64
        self._check_types()
        self._threads = os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(self._threads)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._pool.shutdown()

    def __call__(
        self,
        type_name: str,
        rows: npt.NDArray[np.float32],
        importance: npt.NDArray[np.float32] | None = None,
    ) -> npt.NDArray[np.uint8]:
        """Return `rows` (n, columns) as bytes of `type_name`; raise BuildError for a value out of range.

        `importance` (columns) weighs the rounding error of each column; types without scales ignore it.
        """
        kind, columns = GGML_TYPES[type_name], rows.shape[-1]
        made = np.empty((len(rows), kind.size((columns,))), np.uint8)
        share = -(-len(rows) // self._threads)
        weights = None if importance is None else importance.ctypes.data

        def quantize(start: int) -> None:
            part, into = rows[start : start + share], made[start : start + share]
            self._ggml.ggml_quantize_chunk(
                kind.id, part.ctypes.data, into.ctypes.data, 0, len(part), columns, weights
            )

        list(self._pool.map(quantize, range(0, len(rows), share)))
        if not self._ggml.ggml_validate_row_data(kind.id, made.ctypes.data, made.nbytes):
            raise BuildError(
                f"weights up to {np.abs(rows).max():g} are too large for {type_name}",
                remedy="Build it as F32 or BF16, and ask why the training made such weights.",
            )
        return made

    def _check_types(self) -> None:
        for name, kind in GGML_TYPES.items():
            found = (self._ggml.ggml_blck_size(kind.id), self._ggml.ggml_type_size(kind.id))
            if found != (kind.block, kind.nbytes):
                raise BuildError(
                    f"this llama-cpp-python stores {name} as {found[1]} bytes for {found[0]} weights, "
                    f"expected {kind.nbytes} for {kind.block}",
                    remedy=PIP_LINE,
                )


def library() -> Path:
    """Return the path of ggml's base library; raise MissingPartError if llama-cpp-python is not installed."""
    found = importlib.util.find_spec("llama_cpp")
    library = Path(found.origin).parent / "lib" / _LIBRARY if found and found.origin else None
    if library is None or not library.is_file():
        raise MissingPartError(
            "llama-cpp-python is not installed; GGUF files are made with it", remedy=PIP_LINE
        )
    return library
