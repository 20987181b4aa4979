"""Runtime bundles on a device: whole or not at all, and alone on Python's path."""

import io
import os
import platform
import shutil
import signal
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from slmops import digest as digests
from slmops.artifact import manifest, runtime
from slmops.artifact.manifest import Artifact, Blob
from slmops.artifact.runtime import Runtime
from slmops.build import pack_wheel
from slmops.build.build_runtime import LAUNCH
from slmops.device import collect, prepare, runtimes, slots, stage
from slmops.errors import DeviceError, DoesNotFitError, IntegrityError
from slmops.registry.layout import Layout
from slmops.registry.release import artifact
from slmops.registry.runtimes import publish

HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"
TINY = {
    "tiny/__init__.py": b"SAYS = 'hello'\n",
    "tiny/deep/word.py": b"import tiny\n",
    "__main__.py": LAUNCH.encode(),
}
FAKE = Path(__file__).with_name("fake_runtime.py").read_bytes()
SAID = {
    "name": "runtime", "version": "1.0.0", "arch": platform.machine(), "python": HERE, "libc": "2.2",
    "provides": ["gguf"], "imports": ["tiny.deep.word"], "unpacked": 1 << 20, "files": 3, "parts": {},
}  # fmt: skip
TIMES = {"ready_seconds": 30.0, "gate_seconds": 30.0, "confirm_seconds": 60.0}


def wheel(files=TINY, name="tiny"):
    """The bytes of a wheel."""
    made = io.BytesIO()
    pack_wheel.pack(f"{name}-1.dist-info", files, made)
    return made.getvalue()


def entry(name, mode=0o100644):
    """The bytes of a wheel with one file of that name and kind."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        archive.writestr(info, b"x")
    return made.getvalue()


def bundle(places, *wheels, **changes):
    """Lay a bundle down as a staged slot; return its name."""
    said = {**SAID, **changes}
    files = {f"w{number}.whl": data for number, data in enumerate(wheels)}
    files[runtime.FILE_NAME] = runtime.render(Runtime(**said))
    blobs = [(name, Blob("x", digests.of_bytes(data), len(data))) for name, data in sorted(files.items())]
    described = manifest.render_artifact(Artifact(Blob("x", digests.of_bytes(b""), 0), tuple(blobs)))
    slot = digests.hexdigits(digests.of_bytes(described))
    places.files(slot).mkdir(parents=True)
    for name, data in files.items():
        (places.files(slot) / name).write_bytes(data)
    (places.slot(slot) / "manifest.json").write_bytes(described)
    return slot


def unpack(places, slot):
    runtimes.unpack(places, slot, lambda said: None)


def run(places, slot, *words, **environment):
    """Run Python from a bundle; return what it printed."""
    argv = [*runtimes.python_words(places, {"runtime_slot": slot}), *words]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, env={**os.environ, **environment})
    return done.stdout


def everything(places):
    return sorted(str(path.relative_to(places.root)) for path in places.root.rglob("*"))


def test_a_bundle_is_unpacked_and_runs_modules_code_and_files(places, tmp_path):
    slot = bundle(places, wheel())
    unpack(places, slot)
    file = tmp_path / "said.py"
    file.write_text("import sys, tiny; print(tiny.SAYS, sys.argv)")

    assert run(places, slot, str(file), "a", "b") == f"hello {[str(file), 'a', 'b']}\n"
    assert run(places, slot, "-c", "import sys, tiny; print(tiny.SAYS, sys.argv[1:])", "a") == "hello ['a']\n"
    assert run(places, slot, "-m", "json.tool", "--help").startswith("usage")


def test_nothing_but_the_bundle_and_the_standard_library_is_on_the_path(places, tmp_path):
    slot = bundle(places, wheel())
    unpack(places, slot)
    (tmp_path / "stranger.py").write_text("")

    found = run(
        places, slot, "-c", "import sys; print('\\n'.join(sys.path)); print('site' in sys.modules)",
        PYTHONPATH=str(tmp_path), PYTHONSTARTUP=str(tmp_path / "stranger.py"),
    ).splitlines()  # fmt: skip
    assert found[0] == str(places.runtimes / slot)
    assert found[-1] == "False"
    assert not any("site-packages" in path or path == str(tmp_path) for path in found)


def test_a_bundle_hears_nothing_that_changes_which_code_runs(places, monkeypatch):
    for name in ("PYTHONHOME", "LD_PRELOAD", "LD_LIBRARY_PATH", "LLAMA_CPP_LIB_PATH", "GGML_BACKEND_PATH"):
        monkeypatch.setenv(name, "/nowhere")
    monkeypatch.setenv("TZ", "UTC")

    heard = runtimes.environment(places, {"runtime_slot": "a" * 64})
    assert heard["TZ"] == "UTC"
    assert not any(value == "/nowhere" for value in heard.values())
    assert runtimes.environment(places, {"runtime_slot": None}).items() >= {"LD_PRELOAD": "/nowhere"}.items()


def test_what_libraries_keep_for_a_user_stays_in_the_folder_of_the_device(places):
    bundled, plain = (runtimes.environment(places, {"runtime_slot": slot}) for slot in ("a" * 64, None))

    assert (
        bundled["HOME"] == bundled["XDG_CACHE_HOME"] == plain["XDG_CACHE_HOME"] == str(places.run / "cache")
    )
    assert plain["HOME"] == os.environ["HOME"]
    assert bundled["ORT_DISABLE_TELEMETRY"] == plain["ORT_DISABLE_TELEMETRY"] == "1"


def test_a_python_of_the_device_is_left_as_it_is(places):
    assert runtimes.python_words(places, {"runtime": ["~/venv/bin/python", "-X", "dev"]}) == [
        str(Path.home() / "venv/bin/python"), "-X", "dev",
    ]  # fmt: skip


def test_unpacking_once_more_changes_nothing(places):
    slot = bundle(places, wheel())
    unpack(places, slot)
    before = (places.runtimes / slot).stat().st_ino
    unpack(places, slot)

    assert (places.runtimes / slot).stat().st_ino == before


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"arch": "sparc"}, "is for sparc"), ({"python": "3.99"}, "Python 3.99"), ({"libc": "99.0"}, "99.0"),
        ({"unpacked": 1 << 60}, "to unpack the runtime: .* short"),
    ],
)  # fmt: skip
def test_a_bundle_for_another_machine_is_refused_before_anything_is_written(places, changes, why):
    slot = bundle(places, wheel(), **changes)
    before = everything(places)

    with pytest.raises(DoesNotFitError, match=why):
        unpack(places, slot)
    assert everything(places) == before


@pytest.mark.parametrize(
    "bad",
    [
        entry("../out.py"), entry("/out.py"), entry("a/../../out.py"), entry("a//out.py"),
        entry("a\\..\\out.py"),
        entry("link", stat.S_IFLNK | 0o777), entry("pipe", stat.S_IFIFO | 0o644), entry("tiny/"),
        entry("tiny/__init__.py"), b"no zip at all", wheel()[:-30], wheel({"tiny/huge": bytes(2 << 20)}),
    ],
)  # fmt: skip
def test_a_wheel_that_is_none_leaves_nothing(places, bad):
    slot = bundle(places, wheel(), bad)
    before = everything(places)

    with pytest.raises(IntegrityError):
        unpack(places, slot)
    assert everything(places) == sorted([*before, "runtimes"])


def test_a_bundle_that_does_not_import_leaves_nothing_and_says_why(places):
    slot = bundle(places, wheel({**TINY, "tiny/deep/word.py": b"import lost_and_gone\n"}))

    with pytest.raises(DeviceError, match="lost_and_gone"):
        unpack(places, slot)
    assert list(places.runtimes.iterdir()) == []


def test_a_slot_that_holds_no_runtime_is_refused(places):
    slot = bundle(places, wheel())
    described = places.files(slot) / runtime.FILE_NAME
    described.unlink()

    with pytest.raises((DeviceError, IntegrityError)):
        unpack(places, slot)


WAITS = b"import os, signal\nif 'TINY_WAITS' in os.environ: signal.pause()\n"


def test_one_that_was_killed_half_way_is_unpacked_anew(places, until):
    slot = bundle(places, wheel({**TINY, "tiny/deep/word.py": WAITS}))
    code = (
        "import sys; from pathlib import Path; from slmops.device import runtimes; "
        "from slmops.device.places import Places; "
        "runtimes.unpack(Places(Path(sys.argv[1])), sys.argv[2], lambda said: None)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(places.root), slot],
        env={**os.environ, "TINY_WAITS": "yes"}, start_new_session=True,
    )  # fmt: skip
    until(lambda: list(places.runtimes.glob(".*/tiny/__pycache__/*.pyc")))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (places.runtimes / slot).exists()

    unpack(places, slot)
    runtimes.verify(places, slot)
    assert [path.name for path in places.runtimes.iterdir()] == [slot]


def test_what_has_rotted_is_seen(places):
    slot = bundle(places, wheel())
    unpack(places, slot)
    runtimes.verify(places, slot)
    compiled = next((places.runtimes / slot).rglob("*.pyc"))
    for path in (places.runtimes / slot / "tiny/__init__.py", compiled):
        whole = path.read_bytes()
        path.chmod(0o644)
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(IntegrityError, match=path.name):
            runtimes.verify(places, slot)
        path.write_bytes(whole)
    compiled.unlink()
    with pytest.raises(IntegrityError, match=compiled.name):
        runtimes.verify(places, slot)


def test_runtimes_that_nobody_needs_go(places):
    kept, gone = bundle(places, wheel()), bundle(places, wheel(), version="2")
    unpack(places, kept)
    unpack(places, gone)
    (places.runtimes / ".torn").mkdir()

    assert runtimes.collect(places, {kept}) == sorted([".torn", gone])
    assert [path.name for path in places.runtimes.iterdir()] == [kept]


@pytest.fixture
def other_python():
    """A Python of another version, found on PATH."""
    found = [
        path for minor in range(9, 14) if (path := shutil.which(f"python3.{minor}")) and f"3.{minor}" != HERE
    ]
    usable = [
        path for path in found if not subprocess.run([path, "-c", "import lzma"], check=False).returncode
    ]
    if not usable:
        pytest.skip("no other Python is installed")
    return usable[0]


def test_another_python_of_the_device_is_used_where_the_bundle_is_for_it(places, other_python):
    version = Path(other_python).name.removeprefix("python")
    slot = bundle(places, wheel(), python=version)
    unpack(places, slot)

    assert run(places, slot, "-c", "import sys; print(sys.version_info[1])") == version.split(".")[1] + "\n"


@pytest.fixture
def ship(device, shop, tmp_path):
    """Build, publish, send and stage a bundle of one small wheel; return its slot."""

    def shipped(version, **changes):
        folder = tmp_path / f"runtime-{version}"
        folder.mkdir()
        said = {**SAID, "version": version, "imports": [], **changes}
        (folder / runtime.FILE_NAME).write_bytes(runtime.render(Runtime(**said)))
        (folder / "fake-1-py3-none-any.whl").write_bytes(wheel({"__main__.py": FAKE}, "fake"))
        layout = Layout(tmp_path / f"registry-{version}")
        place = f"{said['arch']}-cp{HERE.replace('.', '')}"
        signed = publish(layout, {place: folder}, created="2026-01-01T00:00:00Z", key=shop.key)
        made = signed.release.entry(place)
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        slot = digests.hexdigits(made.blob.digest)
        parcel = type(shop.release())(signed, artifact(layout, made), slot, files)
        prepared = prepare.make_ready(device.places, parcel.said(profile=place))
        for each in prepared["missing"]:
            device.send(parcel, each["name"], files[each["name"]])
        stage.make_slot(device.places, slot)
        return slot

    return shipped


def words(device):
    return Path(f"/proc/{device.daemon()}/cmdline").read_bytes().decode().split("\0")


def test_a_daemon_runs_from_its_bundle_and_the_way_back_keeps_its_own(device, shop, ship, until):
    places, first = device.places, ship("1.0.0")
    good, bad = shop.release(), shop.release("2.0.0", answers={})
    assert device.activate(good, runtime_slot=first)["outcome"] == "pass"
    device.get("confirm", slot=good.slot)
    assert str(places.runtimes / first) in words(device)

    # A model that fails goes back to the bundle that the committed one runs from, which is still there.
    second = ship("2.0.0")
    assert device.activate(bad, runtime_slot=second)["outcome"] == "fail"
    until(lambda: device.serves() == good.slot)
    assert str(places.runtimes / first) in words(device)

    # The same model on another bundle is a trial of its own, and the old bundle stays the way back.
    assert device.activate(good, runtime_slot=second)["outcome"] == "pass"
    assert device.status()["standing"]["trial"] is not None
    device.get("confirm", slot=good.slot)
    assert slots.names(places) == sorted([good.slot, first, second])
    back = device.get("roll-back", slot=good.slot, code="OPERATOR", message="taken back", **TIMES)
    assert (back["outcome"], device.serves()) == ("pass", good.slot)
    assert str(places.runtimes / first) in words(device)


def test_nobody_is_taken_back_to_a_bundle_that_is_gone(device, shop, ship):
    places, good, first = device.places, shop.release(), ship("1.0.0")
    device.activate(good, runtime_slot=first)
    device.get("confirm", slot=good.slot)
    second = ship("2.0.0")
    device.activate(good, runtime_slot=second)
    device.get("confirm", slot=good.slot)
    aside = places.root / "taken"
    places.slot(first).rename(aside)
    slots.remove(places.runtimes / first)
    said = {"slot": good.slot, "code": "OPERATOR", "message": "taken back", **TIMES}

    refused = device.ask("roll-back", **said)

    assert f"the runtime {first[:12]} that it ran from is not on this device" in refused.said["message"]
    assert "slmops deploy" in refused.said["remedy"]
    assert device.serves() == good.slot
    assert str(places.runtimes / second) in words(device)

    # What only has to be unpacked again is.
    aside.rename(places.slot(first))
    assert device.get("roll-back", **said)["outcome"] == "pass"
    assert device.serves() == good.slot
    assert str(places.runtimes / first) in words(device)


def test_a_bundle_that_does_not_fit_leaves_what_serves_alone(device, shop, ship):
    good = shop.release()
    device.commit(good)

    answer = device.ask("activate", slot=good.slot, runtime_slot=ship("1.0.0", libc="99.0"), **TIMES)
    assert answer.said["code"] == "SLM-FIT"
    assert device.serves() == good.slot


def test_collecting_by_hand_takes_an_unpacked_runtime_that_nothing_leads_to(device):
    slot = bundle(device.places, wheel())
    unpack(device.places, slot)

    gone = collect.gc(device.places, {})["gone"]
    assert {"what": "runtime", "path": f"runtimes/{slot}"} in gone


def test_a_slot_that_has_rotted_serves_on_where_the_way_back_ran_from_a_bundle_that_is_gone(
    device, shop, ship, until
):
    places, good, runtime_slot = device.places, shop.release(), ship("1.0.0")
    device.activate(good, runtime_slot=runtime_slot)
    device.get("confirm", slot=good.slot)
    rotten = shop.release("2.0.0")
    device.commit(rotten)
    device.end()
    slots.forget_whole(places)
    for gone in (places.slot(runtime_slot), places.runtimes / runtime_slot):
        slots.remove(gone)
    readme = places.files(rotten.slot) / "README.md"
    # In this slot alone: both have the same file.
    readme.parent.chmod(0o755)
    readme.unlink()
    readme.write_bytes(b"rotten")

    with device.supervise() as supervisor:
        until(lambda: device.serves() == rotten.slot)
        device.get("fsck", repair=True)
        assert device.status()["standing"]["slot"] == rotten.slot
        supervisor.terminate()
