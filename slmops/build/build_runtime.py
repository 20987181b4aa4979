"""Build a runtime bundle: fetch wheels, compile llama.cpp, strike out what is not needed, pack it anew.

Each of these is a step that is kept, by all that decides it: a second bundle costs what differs. It does
not know of releases.

Law: the same packages, sources and tools give the same bytes, file by file.
"""

import importlib.metadata
import json
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slmops import digest as digests
from slmops.artifact import carried, runtime
from slmops.artifact.runtime import FILE_NAME, WHEEL, Platform, Runtime
from slmops.build import compile_llama as compiler
from slmops.build import pack_wheel, runtime_parts
from slmops.build.cache import Cache
from slmops.build.fetch_wheels import fetch_source, fetch_wheels
from slmops.build.runtime_parts import LIBC, LLAMA, VARIANTS
from slmops.errors import MissingPartError, UsageError, install_line

ENTRIES = ("slmops.daemon.__main__", "slmops.daemon.work")
LAUNCH = '''\
"""Runs Python from this folder alone: what follows it is `-m MODULE ...`, `-c CODE ...` or `FILE ...`."""

import runpy
import sys

if sys.argv[1] == "-m":
    del sys.argv[:2]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
elif sys.argv[1] == "-c":
    code = sys.argv[2]
    del sys.argv[1:3]
    exec(code)
else:
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")
'''
Files = dict[str, bytes]
Progress = Callable[[str, float], None]
"""Told what is being done, and the share of it that is."""


@dataclass(frozen=True)
class Order:
    """What is to be built."""

    name: str
    version: str
    platform: Platform
    formats: tuple[str, ...]


def build_runtime(order: Order, cache: Cache, to: Path, told: Progress) -> Runtime:
    """Fill the empty folder `to` with the wheels of a bundle and its `runtime.json`; return what that says.

    Raise UsageError for a machine that nothing is compiled for, MissingPartError where a part is not
    installed here, BuildError when a package cannot be had or does not compile.
    """
    if order.platform.arch not in VARIANTS:
        raise UsageError(
            f"no runtime can be built for {order.platform.arch}: expected {' or '.join(VARIANTS)}",
            remedy="Name a Python with slmops[daemon] in it as the `runtime` of such devices.",
        )
    pinned = {name: _version(name) for name in runtime_parts.packages(order.formats)}
    if "gguf" in order.formats:
        # What compiles is asked for before anything is fetched.
        compiler.tools()
    wheels = [_packed(cache, name, file, told) for name, file in _fetched(cache, pinned, order, told).items()]
    if "gguf" in order.formats:
        pinned[LLAMA] = _version(LLAMA)
        wheels.append(_llama(cache, pinned[LLAMA], order.platform.arch, told))
    for wheel in wheels:
        shutil.copy(wheel, to / wheel.name)
    pinned["slmops"] = _version("slmops")
    _pack_own(pinned["slmops"], to)
    made = _described(order, pinned, to)
    (to / FILE_NAME).write_bytes(runtime.render(made))
    return made


def _version(package: str) -> str:
    """Return the version that is installed here: the one that was tested here."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError as error:
        raise MissingPartError(
            f"{package} is not installed, and a runtime holds the versions that are",
            remedy=install_line("daemon"),
        ) from error


def _fetched(cache: Cache, pinned: Mapping[str, str], order: Order, told: Progress) -> dict[str, Path]:
    step = {"step": "wheels", "source": str(order.platform), "libc": LIBC, "packages": dict(pinned)}
    told(f"fetching {len(pinned)} packages for {order.platform}", 0.0)

    def make(folder: Path) -> None:
        wheels = fetch_wheels(pinned, order.platform, folder)
        names = {name: wheel.name for name, wheel in wheels.items()}
        (folder / "wheels.json").write_text(json.dumps(names, indent=1), encoding="utf-8")

    made = _once(cache, step, make)
    names = json.loads((made / "wheels.json").read_text(encoding="utf-8"))
    return {name: made / file for name, file in names.items()}


def _packed(cache: Cache, package: str, wheel: Path, told: Progress) -> Path:
    """Return a wheel without what no daemon reads, packed so that it never varies."""
    step = {"step": "packed wheel", "source": digests.of_file(wheel), "package": package, "rules": _rules()}
    told(f"packing {package}", 0.0)

    def make(folder: Path) -> None:
        info, files = pack_wheel.unpack(wheel, lambda file: runtime_parts.kept(package, file))
        pack_wheel.pack(info, files, folder / wheel.name)

    return next(_once(cache, step, make).glob("*" + WHEEL))


def _llama(cache: Cache, version: str, arch: str, told: Progress) -> Path:
    """Return the wheel of llama-cpp-python with the libraries for every processor of an architecture."""
    sdist = _llama_source(cache, version, told)
    libraries = {path.name: path.read_bytes() for path in _libraries(cache, sdist, arch, told)}
    source = digests.of_pieces(data for _, data in sorted(libraries.items()))
    step = {"step": "packed wheel", "source": source, "package": LLAMA, "rules": _rules()}
    told(f"packing {LLAMA}", 0.0)
    name = f"{LLAMA}-{version}-py3-none-manylinux_{LIBC.replace('.', '_')}_{arch}{WHEEL}"

    def make(folder: Path) -> None:
        files = {f"llama_cpp/lib/{library}": data for library, data in libraries.items()}
        pack_wheel.pack(f"{LLAMA}-{version}.dist-info", files | _bindings(sdist, version), folder / name)

    return _once(cache, step, make) / name


def _libraries(cache: Cache, sdist: Path, arch: str, told: Progress) -> list[Path]:
    """Return the libraries of llama.cpp for an architecture."""
    step = {
        "step": "llama.cpp",
        "source": digests.of_file(sdist),
        "arch": arch,
        "variants": VARIANTS[arch],
        "libc": LIBC,
        "flags": compiler.FLAGS,
        "edits": list(compiler.EDITS.items()),
        "compiler": compiler.COMPILER,
        "tools": compiler.tools(),
    }
    doing = f"compiling llama.cpp for {arch} ({', '.join(VARIANTS[arch])})"

    def make(folder: Path) -> None:
        with tempfile.TemporaryDirectory(prefix=".compiling-", dir=cache.folder) as room:
            for library in compiler.compile_llama(sdist, arch, Path(room), lambda share: told(doing, share)):
                shutil.copy(library, folder / library.name)

    return sorted(_once(cache, step, make).glob("*.so"))


def _llama_source(cache: Cache, version: str, told: Progress) -> Path:
    told(f"fetching the source of llama-cpp-python {version}", 0.0)
    step = {"step": "source", "source": f"llama-cpp-python {version}"}
    made = _once(cache, step, lambda folder: fetch_source("llama-cpp-python", version, folder))
    return next(made.glob("*.tar.gz"))


def _bindings(sdist: Path, version: str) -> Files:
    """Return the Python side of llama-cpp-python, its description and its licence."""
    said = {"PKG-INFO": "METADATA", "LICENSE.md": "licenses/LICENSE.md"}
    files: Files = {}
    with tarfile.open(sdist) as archive:
        for member in archive:
            name = member.name.partition("/")[2]
            at = f"{LLAMA}-{version}.dist-info/{said[name]}" if name in said else name
            wanted = name in said or (name.startswith("llama_cpp/") and runtime_parts.kept(LLAMA, name))
            content = archive.extractfile(member) if wanted and member.isfile() else None
            if content is not None:
                files[at] = content.read()
    return files


def _pack_own(version: str, to: Path) -> None:
    """Pack the daemon: its modules, what of slmops they import, and how they are started."""
    top = carried.PACKAGE.parent
    sources = [carried.source(name) for name in carried.modules(ENTRIES)]
    files = {path.relative_to(top).as_posix(): path.read_bytes() for path in sources}
    info = f"slmops-{version}.dist-info"
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: slmops\nVersion: {version}\n".encode()
    files["__main__.py"] = LAUNCH.encode()
    pack_wheel.pack(info, files, to / f"slmops-{version}-py3-none-any{WHEEL}")


def _described(order: Order, pinned: Mapping[str, str], folder: Path) -> Runtime:
    sizes = [size for wheel in folder.glob("*" + WHEEL) for size in pack_wheel.sizes(wheel)]
    return Runtime(
        name=order.name,
        version=order.version,
        arch=order.platform.arch,
        python=order.platform.python,
        libc=LIBC,
        provides=list(order.formats),
        imports=runtime_parts.imports(order.formats),
        unpacked=sum(sizes),
        files=len(sizes),
        parts=dict(pinned),
    )


def _once(cache: Cache, step: Mapping[str, Any], make: Callable[[Path], object]) -> Path:
    """Return the folder of a step, made now if it was not before."""
    found = cache.find(step)
    if found is None:
        with cache.make(step) as folder:
            make(folder)
        found = cache.find(step)
    if found is None:
        raise MissingPartError(f"{step['step']} was cleared away while it was made", remedy="Run it again.")
    return found


def _rules() -> list[str]:
    """Return by what files are chosen and packed."""
    return [*runtime_parts.rules(), digests.of_file(Path(pack_wheel.__file__))]
