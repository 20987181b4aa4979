"""slmops bundle: what is written, and shown as whole."""

import json

import pytest

from slmops.artifact import runtime
from slmops.artifact.runtime import Runtime
from slmops.registry import runtimes
from slmops.registry.layout import Layout


@pytest.fixture
def stick(tmp_path):
    """Where a bundle is written."""
    return tmp_path / "stick"


@pytest.mark.parametrize("names", [[], ["kiosk-1"], ["kiosk-1", "kiosk-2"]])
def test_a_healthy_bundle_is_shown_with_all_its_devices(slmops, released, stick, names):  # noqa: ARG001
    words = [word for name in names for word in ("--device", name)]
    made = slmops(
        "bundle", "create", "--usb", stick, "--release", "parrot:1.0.0", "--profile", "local", *words
    )
    assert made.code == 0, made.err

    said = json.loads(slmops("bundle", "show", stick, "-o", "json").out)
    assert (said["release"], said["yours"], list(said["devices"])) == (
        "parrot:1.0.0",
        True,
        names or ["local"],
    )
    shown = slmops("bundle", "show", stick)
    assert shown.code == 0
    assert all(f"for {name}" in shown.out for name in names)


def test_a_runtime_is_no_release_of_a_model(slmops, released, home, stick, tmp_path):  # noqa: ARG001
    folder = tmp_path / "runtime"
    folder.mkdir()
    said = Runtime("runtime", "0.1.0", "x86_64", "3.11", "2.28", ["gguf"], [], 2000000, 9, {})
    (folder / runtime.FILE_NAME).write_bytes(runtime.render(said))
    layout, key = Layout(home / "registry"), home / "keys" / "release"
    runtimes.publish(layout, {"x86_64-cp311": folder}, created="2026-01-01T00:00:00Z", key=key)

    ended = slmops("bundle", "create", "--usb", stick, "--release", "runtime:0.1.0", "--profile", "local")

    assert ended.code == 1
    assert "runtime:0.1.0 is a runtime bundle, not a release of a model" in ended.err
    assert "slmops release list" in ended.err
    assert not stick.exists()
