"""What goes into a runtime bundle."""

import re
from importlib.metadata import requires

import pytest

from slmops.build import compile_llama, runtime_parts
from slmops.errors import BuildError


def plain(name):
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", name)[0]).lower()


def test_what_a_package_requires_is_there_too_or_left_out_for_a_reason():
    there = {
        plain(name) for name in (*runtime_parts.packages(runtime_parts.FORMAT_NEEDS), runtime_parts.LLAMA)
    }
    wanted = {
        plain(line)
        for name in there
        for line in requires(name) or ()
        if "extra ==" not in line and not re.search(r"python_version\s*<\s*['\"]3\.1[01]['\"]", line)
    }

    assert wanted - there - set(runtime_parts.LEFT_OUT) == set()
    assert set(runtime_parts.LEFT_OUT) <= wanted


def test_a_bundle_for_onnx_alone_needs_no_llama_cpp():
    assert "onnxruntime" in runtime_parts.packages(["onnx"])
    assert "diskcache" not in runtime_parts.packages(["onnx"])
    assert "slmops.daemon.llama" not in runtime_parts.imports(["onnx"])
    assert "onnxruntime" not in runtime_parts.packages(["gguf"])


@pytest.mark.parametrize(
    ("package", "file"),
    [
        ("numpy", "numpy/_core/tests/test_umath.py"), ("numpy", "numpy/f2py/crackfortran.py"),
        ("numpy", "numpy/__init__.pyi"), ("numpy", "numpy-2.dist-info/RECORD"),
        ("onnxruntime", "onnxruntime/capi/libonnxruntime.so.1.31.1"),
        ("onnxruntime", "onnxruntime/transformers/models/bert.py"),
    ],
)  # fmt: skip
def test_what_no_model_is_served_with_is_left_out(package, file):
    assert not runtime_parts.kept(package, file)


@pytest.mark.parametrize(
    ("package", "file"),
    [
        ("numpy", "numpy/__init__.py"), ("numpy", "numpy.libs/libscipy_openblas64_-1.so"),
        ("numpy", "numpy-2.dist-info/licenses/LICENSE.txt"), ("starlette", "starlette/testclient.py"),
        ("onnxruntime", "onnxruntime/capi/onnxruntime_pybind11_state.cpython-311-aarch64-linux-gnu.so"),
        # Where it is missing, each start of a daemon says so in its log.
        ("onnxruntime", "onnxruntime/capi/libonnxruntime_providers_shared.so"),
    ],
)  # fmt: skip
def test_what_a_model_is_served_with_stays(package, file):
    assert runtime_parts.kept(package, file)


def test_a_llama_cpp_without_a_variant_that_is_wanted_is_refused(tmp_path):
    lists = tmp_path / "CMakeLists.txt"
    lists.write_text(
        "        ggml_add_cpu_backend_variant(x64)\n ggml_add_cpu_backend_variant(sse42 SSE42)\n"
    )

    with pytest.raises(BuildError, match=r"armv8\.0_1"):
        compile_llama._choose_variants(lists, runtime_parts.VARIANTS["aarch64"])
    compile_llama._choose_variants(lists, ("sse42",))
    assert lists.read_text() == " ggml_add_cpu_backend_variant(sse42 SSE42)\n"


def test_a_llama_cpp_that_waits_in_another_way_is_refused(tmp_path):
    source = tmp_path / "ggml-cpu.c"
    source.write_text("".join(compile_llama.EDITS))
    compile_llama._let_threads_sleep(source)
    assert "FUTEX_WAIT" in source.read_text()

    with pytest.raises(BuildError, match="another way"):
        compile_llama._let_threads_sleep(source)
