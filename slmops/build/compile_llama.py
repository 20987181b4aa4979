"""Compile llama.cpp for a kind of machine, whatever machine this is, for every processor of that kind.

zig is the compiler: it knows every target and carries each version of the C library, so that what is
made here runs where the library is old. The code for processors is compiled in several variants, of
which the daemon loads the best that its processor bears. It does not know what the libraries go into.

Law: the same source, target and tools give the same libraries, wherever they are compiled.
"""

import importlib.metadata
import importlib.util
import os
import re
import shlex
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

from slmops.build.runtime_parts import LIBC, VARIANTS
from slmops.errors import BuildError, MissingPartError, install_line

FLAGS = (
    *("-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=ON", "-DCMAKE_SYSTEM_NAME=Linux"),
    *("-DLLAMA_BUILD_COMMON=OFF", "-DLLAMA_BUILD_TOOLS=OFF", "-DLLAMA_BUILD_TESTS=OFF"),
    *("-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_SERVER=OFF", "-DLLAMA_BUILD_APP=OFF"),
    *("-DLLAMA_OPENSSL=OFF", "-DGGML_NATIVE=OFF", "-DGGML_OPENMP=OFF"),
    *("-DGGML_BACKEND_DL=ON", "-DGGML_CPU_ALL_VARIANTS=ON"),
    # A wheel holds no links: each library must have one name.
    *("-DCMAKE_PLATFORM_NO_VERSIONED_SONAME=ON", "-DCMAKE_INSTALL_RPATH=$ORIGIN"),
    "-DCMAKE_BUILD_WITH_INSTALL_RPATH=ON",
    *("-DCMAKE_SHARED_LINKER_FLAGS=-s", "-DCMAKE_MODULE_LINKER_FLAGS=-s"),
    # They are looked for in the repository of git that the folder happens to lie in.
    *("-DLLAMA_BUILD_COMMIT=none", "-DLLAMA_BUILD_NUMBER=0", "-DCMAKE_DISABLE_FIND_PACKAGE_Git=ON"),
)
_PASSED = "atomic_fetch_add_explicit(&tp->n_barrier_passed, 1, memory_order_seq_cst);\n"
_FUTEX = "syscall(SYS_futex, &tp->n_barrier_passed, FUTEX_{}_PRIVATE, {}, NULL, NULL, 0);\n"
EDITS = {
    "#include <sched.h>\n": "#include <sched.h>\n#include <linux/futex.h>\n#include <sys/syscall.h>\n",
    f"        {_PASSED}        return;\n": (
        f"        {_PASSED}        {_FUTEX.format('WAKE', '0x7fffffff')}        return;\n"
    ),
    "== n_passed) {\n        ggml_thread_cpu_relax();\n": "== n_passed) {\n"
    "        if (spins++ < 2000) { ggml_thread_cpu_relax(); continue; }\n"
    f"        {_FUTEX.format('WAIT', 'n_passed')}",
    "    // wait for other threads\n": "    int spins = 0;\n",
}
"""What is written differently in ggml-cpu.c: threads that wait for each other sleep after some microseconds.

Without OpenMP, which zig does not bring, they would spin: on a device with other work to do one of them waits
for a turn of the processor while the others burn theirs (measured: an answer of 0.1 s took 12 s).
"""
COMPILER = """\
#!/bin/sh
# zig names processors by -mcpu alone: what is said by -march and -m<feature> is put in its words.
cpu={least}
for word do
  shift
  case $word in
    -march=armv8-a) ;;
    -march=armv8.*)
      cpu=$cpu+$(printf %s "${{word#-march=arm}}" | sed 's/-a+/a+/; s/\\./_/; s/+fp16/+fullfp16/') ;;
    -msse4.2) cpu=$cpu+sse4_2 ;;
    -mavx*|-mf16c|-mfma|-mbmi2) cpu=$cpu+${{word#-m}} ;;
    *) set -- "$@" "$word" ;;
  esac
done
exec {zig} {tool} -target {arch}-linux-gnu.{libc} "-mcpu=$cpu" -ffile-prefix-map={room}=. "$@"
"""
_TOOLS = ("cc", "c++", "ar", "ranlib")
_LEAST = {"aarch64": "generic", "x86_64": "x86_64"}
_STEP = re.compile(r"\[(\d+)/(\d+)\]")
_VARIANT = re.compile(r"^ *ggml_add_cpu_backend_variant\(([\w.]+)[ )].*\n", re.MULTILINE)


def compile_llama(sdist: Path, arch: str, room: Path, told: Callable[[float], None]) -> list[Path]:
    """Compile the llama.cpp inside llama-cpp-python's `sdist` for `arch`; return the libraries, in `room`.

    `told` hears the share that is done. Raise MissingPartError without the tools, BuildError when it fails.
    """
    with tarfile.open(sdist) as archive:
        archive.extractall(room, filter="data")
    source = next(room.glob("*/vendor/llama.cpp"))
    _choose_variants(source / "ggml" / "src" / "CMakeLists.txt", VARIANTS[arch])
    _let_threads_sleep(source / "ggml" / "src" / "ggml-cpu" / "ggml-cpu.c")
    tools, made = _write_tools(room, arch), room / "made"
    compilers = ("C_COMPILER", "CXX_COMPILER", "AR", "RANLIB")
    named = [f"-DCMAKE_{name}={tools / tool}" for name, tool in zip(compilers, _TOOLS, strict=True)]
    cmake, ninja = _program("cmake"), _program("ninja")
    where = ("-S", str(source), "-B", str(made), "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}")
    _run([cmake, *where, *FLAGS, f"-DCMAKE_SYSTEM_PROCESSOR={arch}", *named], room, told)
    _run([ninja, "-C", str(made), "llama"], room, told)
    return sorted((made / "bin").glob("*.so"))


def tools() -> dict[str, str]:
    """Return what compiles, by version; raise MissingPartError where it is not installed."""
    found = {}
    for name in ("ziglang", "cmake", "ninja"):
        _program(name)
        found[name] = importlib.metadata.version(name)
    return found


def _write_tools(room: Path, arch: str) -> Path:
    """Write the commands by which cmake reaches zig."""
    folder = room / "tools"
    folder.mkdir()
    zig = shlex.quote(_program("ziglang"))
    said = {"zig": zig, "least": _LEAST[arch], "arch": arch, "libc": LIBC, "room": shlex.quote(str(room))}
    for tool in _TOOLS:
        plain = f'#!/bin/sh\nexec {zig} {tool} "$@"\n'
        text = COMPILER.format(tool=tool, **said) if tool in ("cc", "c++") else plain
        (folder / tool).write_text(text, encoding="utf-8")
        (folder / tool).chmod(0o755)
    return folder


def _choose_variants(file: Path, wanted: tuple[str, ...]) -> None:
    """Strike out of ggml's list of variants those that are not wanted."""
    text = file.read_text(encoding="utf-8")
    missing = set(wanted) - set(_VARIANT.findall(text))
    if missing:
        raise BuildError(
            f"this llama.cpp has no code for {', '.join(sorted(missing))}", remedy="Install another version."
        )
    chosen = _VARIANT.sub(lambda found: found[0] if found[1] in wanted else "", text)
    file.write_text(chosen, encoding="utf-8")


def _let_threads_sleep(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    for old, new in EDITS.items():
        if text.count(old) != 1:
            raise BuildError(
                f"this llama.cpp waits in another way than is known: {old!r}",
                remedy="Install another version.",
            )
        text = text.replace(old, new)
    file.write_text(text, encoding="utf-8")


def _run(words: list[str], room: Path, told: Callable[[float], None]) -> None:
    cached = {f"ZIG_{kind}_CACHE_DIR": str(room / "zig") for kind in ("GLOBAL", "LOCAL")}
    lines: list[str] = []
    with subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, **cached},
    ) as process:
        for line in process.stdout or ():
            lines = [*lines[-30:], line]
            if found := _STEP.match(line):
                told(int(found[1]) / int(found[2]))
    if process.returncode:
        raise BuildError(
            f"llama.cpp does not compile, {Path(words[0]).name} says:\n{''.join(lines)}",
            remedy="What it says above names the reason.",
        )


def _program(name: str) -> str:
    """Return the path of a program that came as a Python package."""
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:
        raise MissingPartError(
            f"{name} is not installed; it compiles runtimes", remedy=install_line("runtime")
        )
    folder = Path(found.origin).parent
    places = (folder / "zig", Path(sys.executable).parent / name, folder / "data" / "bin" / name)
    return str(next(place for place in places if place.is_file()))
