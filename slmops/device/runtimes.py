"""Runtime bundles on this device: unpack one, run Python from it, see that it is whole.

A bundle arrives as any release does and lies in a slot; unpacked it is ROOT/runtimes/<slot>/, a folder
that is all a daemon's Python sees. It does not know what the daemon does with it.

Laws: an unpacked runtime is there whole or not at all, and was seen to import what it is for; nothing is
written before this machine is known to bear it; no file lands outside its folder; of other Python
packages on the device, and of the environment's words to Python, nothing reaches the daemon.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from slmops.artifact import runtime as runtimes
from slmops.artifact.runtime import FILE_NAME, WHEEL, Machine, Runtime
from slmops.device import disk, limit, slots
from slmops.device.places import Places, read_json, sync_folder, write_json
from slmops.errors import DeviceError, DoesNotFitError, IntegrityError, SlmopsError
from slmops.wire import DISK_RESERVE

Note = Callable[["dict[str, Any]"], None]
PIECE = 1 << 20
BLOCK = 4096
"""Bytes of disk that a file takes the most above its own."""
IMPORTING = 900.0
"""Seconds that a slow device may take to compile a bundle's modules."""
COMPILED = "compiled.json"
"""In an unpacked runtime: digests of the bytecode that this device made of its sources."""
_TRY = (
    "import importlib, sys; sys.path.insert(0, sys.argv[1]); list(map(importlib.import_module, sys.argv[2:]))"
)
NO_TELEMETRY = "ORT_DISABLE_TELEMETRY"
"""ONNX Runtime's; without it, it keeps a device id for its maker as soon as it is imported."""
_STRANGE = re.compile(r"(PYTHON|LD_|GGML_|LLAMA_).*")
"""Names of what would change from outside which code is run."""


def unpack(places: Places, slot: str, note: Note) -> None:
    """Unpack the bundle in a slot, where that is not done yet; `note` is told of each wheel.

    Raise DoesNotFitError when this machine cannot bear it, IntegrityError when its wheels are not what
    they say, DeviceError when it does not import here.
    """
    target = places.runtimes / slot
    if target.is_dir():
        return
    slots.verify(places, slot)
    described = description(places, slot)
    _refuse(places, described)
    fresh = places.runtimes / f".{slot}"
    if fresh.exists():
        slots.remove(fresh)
    fresh.mkdir(parents=True)
    try:
        _fill(places, slot, described, fresh, note)
    except (SlmopsError, OSError):
        slots.remove(fresh)
        raise
    # A thousand files, each synced by itself, would take a card minutes.
    os.sync()
    fresh.rename(target)
    sync_folder(places.runtimes)


def python_words(places: Places, settings: dict[str, Any]) -> list[str]:
    """Return the words that run a Python with what the daemon needs; `-m MODULE` or a file follows them.

    `settings` holds `runtime` (argv of a Python of the device) and may hold `runtime_slot`, which goes first.
    Raise OSError when that bundle is not unpacked, IntegrityError when it has rotted.
    """
    slot = settings.get("runtime_slot")
    if slot is None:
        first, *rest = settings["runtime"]
        return [str(Path(first).expanduser()), *rest]
    folder = places.runtimes / slot
    described = runtimes.parse((folder / FILE_NAME).read_bytes())
    # Bytecode was made when it was unpacked: what a daemon would write there is nothing of ours.
    return [_python(described.python) or sys.executable, "-I", "-S", "-B", str(folder)]


def environment(places: Places, settings: dict[str, Any]) -> dict[str, str]:
    """Return the environment to run it in; a bundle hears nothing that changes which code is run.

    What libraries keep for a user goes to the device's own folder. A bundle looks for nothing in the home; a
    Python of the device may have its packages there.
    """
    kept, bundled = str(places.run / "cache"), settings.get("runtime_slot") is not None
    heard = {name: said for name, said in os.environ.items() if not (bundled and _STRANGE.fullmatch(name))}
    own = {"XDG_CACHE_HOME": kept, NO_TELEMETRY: "1", **({"HOME": kept} if bundled else {})}
    return {**heard, **own}


def description(places: Places, slot: str) -> Runtime:
    """Return what the bundle in a slot says of itself; raise DeviceError when the slot holds none."""
    try:
        return runtimes.parse((places.files(slot) / FILE_NAME).read_bytes())
    except FileNotFoundError as error:
        raise DeviceError(f"slot {slot[:12]} holds no runtime", remedy="Deploy again.") from error


def verify(places: Places, slot: str) -> None:
    """Raise IntegrityError unless every file of an unpacked runtime is what its wheels say."""
    folder = places.runtimes / slot
    compiled = read_json(folder / COMPILED)
    if compiled is None:
        raise IntegrityError(f"runtime {slot[:12]}: {COMPILED} has rotted")
    expected = {name: digest for wheel in _wheels(places, slot) for name, digest in _recorded(wheel)}
    expected[FILE_NAME] = _digest(places.files(slot) / FILE_NAME)
    for name, digest in {**expected, **compiled}.items():
        path = folder / name
        if not path.is_file() or _digest(path) != digest:
            raise IntegrityError(f"runtime {slot[:12]}: {name} has rotted")


def collect(places: Places, needed: set[str]) -> list[str]:
    """Remove the unpacked runtimes that are not `needed`, and what was never finished; return their names."""
    gone = [path for path in sorted(places.runtimes.glob("*")) if path.name not in needed]
    for path in gone:
        leaving = path.with_name(f".gone-{path.name.lstrip('.')}")
        path.rename(leaving)
        slots.remove(leaving)
    return [path.name for path in gone]


def _refuse(places: Places, described: Runtime) -> None:
    """Raise DoesNotFitError unless this machine can start the bundle and has room for it."""
    refused = runtimes.refusal(described, _machine(described))
    if refused is not None:
        raise DoesNotFitError(
            refused,
            remedy="Build one for it (slmops runtime build --platform ARCH-cpXY), or name a Python of the "
            "device as its `runtime`.",
        )
    # Sources are compiled once: that takes as much again, at the most.
    needed = described.unpacked + described.files * BLOCK
    if needed + DISK_RESERVE > disk.free(places):
        raise disk.full(places, "disk, to unpack the runtime", needed)


def _machine(described: Runtime) -> Machine:
    """Return what there is here that a bundle is judged by."""
    own = f"{sys.version_info[0]}.{sys.version_info[1]}"
    pythons = {own, *([described.python] if _python(described.python) else [])}
    said = os.confstr("CS_GNU_LIBC_VERSION") if "CS_GNU_LIBC_VERSION" in os.confstr_names else None
    libc = said.split()[-1] if said else None
    return Machine(os.uname().machine, tuple(sorted(pythons)), libc, lzma=_has_lzma())


def _has_lzma() -> bool:
    try:
        import lzma  # noqa: F401, PLC0415 - whether it can be
    except ImportError:
        return False
    return True


def _python(version: str) -> str | None:
    """Return a Python of a version: the agent's own, where it is one."""
    if version == f"{sys.version_info[0]}.{sys.version_info[1]}":
        return sys.executable
    return shutil.which(f"python{version}")


def _fill(places: Places, slot: str, described: Runtime, folder: Path, note: Note) -> None:
    left = described.unpacked
    for wheel in _wheels(places, slot):
        note({"step": "unpacking", "wheel": wheel.name})
        left -= _unpack_wheel(wheel, folder, left)
    shutil.copyfile(str(places.files(slot) / FILE_NAME), str(folder / FILE_NAME))
    note({"step": "trying"})
    _see_it_import(places, described, folder)


def _wheels(places: Places, slot: str) -> list[Path]:
    return sorted(places.files(slot).glob(f"*{WHEEL}"))


def _unpack_wheel(wheel: Path, folder: Path, most: int) -> int:
    """Unpack one wheel, of `most` bytes; return how many it had."""
    import zipfile  # noqa: PLC0415 - verbs of the agent start without it
    from lzma import LZMAError  # noqa: PLC0415 - which may not be there

    written = 0
    try:
        with zipfile.ZipFile(str(wheel)) as archive:
            for entry in archive.infolist():
                place = _place(folder, entry.filename, entry.external_attr >> 16, wheel.name)
                with archive.open(entry) as source:
                    written += _unpack_file(source, place, most - written)
    except (zipfile.BadZipFile, LZMAError, EOFError, NotImplementedError) as error:
        raise IntegrityError(f"{wheel.name} is no wheel: {error}") from error
    return written


def _place(folder: Path, name: str, mode: int, wheel: str) -> Path:
    """Return where a file of a wheel goes: a plain file, inside the folder, that no other wheel brought."""
    parts = name.split("/")
    plain = all(part not in ("", ".", "..") and "\\" not in part and "\0" not in part for part in parts)
    if not plain or stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        raise IntegrityError(f"{wheel}: {name!r} is no plain file inside its folder")
    path = folder.joinpath(*parts)
    if path.exists():
        raise IntegrityError(f"{wheel}: {name} is there already, from another wheel")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _unpack_file(source: IO[bytes], path: Path, most: int) -> int:
    with path.open("xb") as file:
        while piece := source.read(PIECE):
            file.write(piece)
            if file.tell() > most:
                raise IntegrityError(f"{path.name}: the wheels hold more than the bundle says")
        written = file.tell()
    path.chmod(0o444)
    return written


def _see_it_import(places: Places, described: Runtime, folder: Path) -> None:
    """Import what the daemon will, which also compiles it; write down the digests of what that made."""
    python = _python(described.python) or sys.executable
    done = limit.run(
        [python, "-I", "-S", "-c", _TRY, str(folder), *described.imports],
        IMPORTING,
        env=environment(places, {"runtime_slot": folder.name}),
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"it ends with {done.returncode}"]
        raise DeviceError(
            f"{described.reference} does not start on this device: {said[-1]}",
            remedy="Name a Python of the device with slmops[daemon] in it as its `runtime`.",
        )
    made = sorted(folder.rglob("*.pyc"))
    write_json(folder / COMPILED, {str(path.relative_to(folder)): _digest(path) for path in made})


def _recorded(wheel: Path) -> Iterator[tuple[str, str]]:
    """Yield what a wheel's RECORD says of each of its files."""
    import zipfile  # noqa: PLC0415 - verbs of the agent start without it

    with zipfile.ZipFile(str(wheel)) as archive:
        record = next(name for name in archive.namelist() if name.endswith(".dist-info/RECORD"))
        for line in archive.read(record).decode().splitlines():
            name, digest, _ = line.rsplit(",", 2)
            if digest:
                yield name, digest


def _digest(path: Path) -> str:
    """Return a file's digest as RECORD has it."""
    state = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            state.update(piece)
    return "sha256=" + base64.urlsafe_b64encode(state.digest()).rstrip(b"=").decode()
