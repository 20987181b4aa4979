"""What goes into a runtime bundle: packages by what they are needed for, files by what they are good for.

Found by trying: the daemon was let load, answer and label from what is left, in both formats. It does
not know where packages come from.

Laws: whatever a package here says it requires is here too, or is left out for a reason given below; a
file that is left out is none that a model is served with.
"""

from collections.abc import Iterable
from fnmatch import fnmatchcase

SHARED = (
    *("anyio", "click", "h11", "Jinja2", "llguidance", "MarkupSafe", "msgspec", "numpy"),
    *("prometheus_client", "starlette", "tokenizers", "typing_extensions", "uvicorn"),
)
"""Packages that serve any model."""
LLAMA = "llama_cpp_python"
LLAMA_NEEDS = ("diskcache",)
"""What llama-cpp-python imports, whatever is asked of it."""
FORMAT_NEEDS = {"gguf": LLAMA_NEEDS, "onnx": ("onnxruntime",)}
LEFT_OUT = {
    "flatbuffers": "onnxruntime converts models with it",
    "huggingface-hub": "tokenizers fetches from the hub with it",
    "idna": "anyio resolves the names of far hosts with it",
    "packaging": "onnxruntime's tools compare versions with it",
    "protobuf": "onnxruntime's tools read graphs with it",
}
"""Packages that those above require for something that a daemon never does."""
_UNUSED = (
    *("*/tests/*", "*/conftest.py", "*_tests.cpython-*.so"),
    *("*/__pycache__/*", "*.pyi", "*.pxd", "*.pyx", "*.c", "*.h", "*.a", "*.pc", "*/py.typed"),
    *("*.dist-info/RECORD*", "*.dist-info/entry_points.txt", "*.dist-info/sboms/*", "*.data/*"),
)
"""Of any package: its tests, and what compilers and type checkers read."""
_UNUSED_OF = {
    "numpy": (
        "numpy/distutils/*",
        "numpy/f2py/*",
        "numpy/doc/*",
        "numpy/_pyinstaller/*",
        "numpy/_core/_simd.*",
    ),
    # The module for Python has all of the library within; the library by itself is for other languages.
    "onnxruntime": (
        "onnxruntime/capi/libonnxruntime.so*",
        *("onnxruntime/backend/*", "onnxruntime/datasets/*", "onnxruntime/quantization/*"),
        *("onnxruntime/tools/*", "onnxruntime/transformers/*"),
    ),
    LLAMA: ("llama_cpp/server/*", "llama_cpp/lib/*"),
    "tokenizers": ("tokenizers/tools/*",),
}
_IMPORTED = (
    *("slmops.daemon.run", "slmops.daemon.work", "slmops.daemon.constrain", "slmops.daemon.openapi"),
    *("uvicorn.loops.asyncio", "uvicorn.protocols.http.h11_impl", "uvicorn.lifespan.off"),
    *("llguidance", "numpy.random", "numpy.ctypeslib", "anyio._backends._asyncio"),
)
_IMPORTED_BY = {"gguf": ("slmops.daemon.llama",), "onnx": ("slmops.daemon.onnx", "slmops.daemon.classifier")}
VARIANTS = {
    "aarch64": ("armv8.0_1", "armv8.2_1", "armv8.2_2"),
    "x86_64": ("sse42", "haswell", "alderlake", "cascadelake"),
}
"""Kinds of processors that llama.cpp is compiled for, as ggml names them; the best that runs is taken.

Cortex-A53 and A72 load the first of aarch64, A76 and A78 the third. numpy itself needs SSE 4.2.
"""
LIBC = "2.31"
"""The least GNU C library that a bundle is built for: of 2020, as in Debian 11 and Ubuntu 20.04."""


def imports(formats: Iterable[str]) -> list[str]:
    """Return the modules that a daemon imports until it has answered, in these formats."""
    return [*_IMPORTED, *(module for name in formats for module in _IMPORTED_BY[name])]


def packages(formats: Iterable[str]) -> list[str]:
    """Return the packages that come as wheels, to serve models of these formats."""
    return sorted({*SHARED, *(each for name in formats for each in FORMAT_NEEDS[name])})


def kept(package: str, file: str) -> bool:
    """Say whether a file of a package's wheel goes into a bundle; `file` is its path in the wheel."""
    return not any(fnmatchcase(file, pattern) for pattern in (*_UNUSED, *_UNUSED_OF.get(package, ())))


def rules() -> list[str]:
    """Return by what files are chosen: where these change, so does a bundle."""
    return [*_UNUSED, *(pattern for patterns in _UNUSED_OF.values() for pattern in patterns)]
