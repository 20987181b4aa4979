"""slmops runtime, as far as nothing is built."""

import json
import sys

import pytest

from slmops.artifact import runtime, sign
from slmops.artifact.runtime import Platform, Runtime
from slmops.build.build_runtime import Order, build_runtime
from slmops.build.cache import Cache
from slmops.errors import MissingPartError
from slmops.registry import runtimes
from slmops.registry.layout import Layout

CREATED = "2026-01-01T00:00:00Z"


@pytest.fixture
def kept(home, tmp_path):
    """A bundle in the registry."""
    folder, key = tmp_path / "bundle", tmp_path / "key"
    write_bundle(folder)
    sign.make_key(key, "test")
    runtimes.publish(Layout(home / "registry"), {"aarch64-cp311": folder}, created=CREATED, key=key)


def write_bundle(folder):
    folder.mkdir()
    said = Runtime(
        "runtime", "1.0.0", "aarch64", "3.11", "2.28", ["onnx"], [], 2000000, 9, {"numpy": "2.4.6"}
    )
    (folder / runtime.FILE_NAME).write_bytes(runtime.render(said))
    (folder / "numpy-2.4.6-py3-none-any.whl").write_bytes(b"x" * 1000)


def test_a_dry_run_says_for_which_machines(slmops):
    ended = slmops(
        "runtime",
        "build",
        "--profile",
        "raspberry-pi-4-2gb",
        "--platform",
        "x86_64-cp312",
        "--dry-run",
        "-o",
        "json",
    )

    said = [(each["platform"], each["formats"]) for each in json.loads(ended.out)]
    assert said == [("aarch64-cp311", ["gguf", "onnx"]), ("x86_64-cp312", ["gguf", "onnx"])]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], "for which devices?"),
        (["--platform", "toaster"], "expected an architecture and a Python"),
        (["--platform", "aarch64-cp311", "--formats", "tflite"], "expected gguf or onnx"),
        (["--platform", "sparc-cp311"], "no runtime can be built for sparc"),
    ],
)
def test_what_cannot_be_built_is_refused_before_anything_is_fetched(slmops, words, why):
    ended = slmops("runtime", "build", *words)

    assert ended.code == 2
    assert why in ended.err


def test_a_version_never_changes(slmops, kept):  # noqa: ARG001 - it must be there
    ended = slmops("runtime", "build", "--platform", "aarch64-cp311", "--version", "1.0.0")

    assert ended.code == 2
    assert "already" in ended.err


def test_bundles_are_listed_and_shown(slmops, kept):  # noqa: ARG001 - it must be there
    listed = json.loads(slmops("runtime", "list", "-o", "json").out)
    assert [(each["release"], each["platform"], each["provides"]) for each in listed] == [
        ("runtime:1.0.0", "aarch64-cp311", ["onnx"])
    ]

    shown = slmops("runtime", "show", "runtime:1.0.0").out
    assert "glibc 2.28" in shown
    assert "numpy-2.4.6-py3-none-any.whl" in shown


def test_a_bundle_given_as_the_release_to_deploy_is_refused_saying_what_it_is(slmops, home, tmp_path):
    key = home / "keys" / "release"
    slmops("trust", "init")
    folder, fleet = tmp_path / "bundle", tmp_path / "fleet.yaml"
    write_bundle(folder)
    runtimes.publish(Layout(home / "registry"), {"aarch64-cp311": folder}, created=CREATED, key=key)
    fleet.write_text("name: plant\ndevices: [{name: edge, host: 127.0.0.1, port: 1}]\n")

    ended = slmops("deploy", fleet, "--release", "runtime:1.0.0", "--yes")

    assert ended.code == 1
    assert "runtime:1.0.0 is a runtime bundle, not a release of a model" in ended.err
    assert "`runtime` in the fleet file" in ended.err


def test_what_compiles_is_missed_before_anything_is_fetched(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ziglang", None)
    told = []

    with pytest.raises(MissingPartError, match="ziglang") as missed:
        build_runtime(
            Order("runtime", "1.0.0", Platform("aarch64", "3.11"), ("gguf",)),
            Cache(tmp_path), tmp_path, lambda *said: told.append(said),
        )  # fmt: skip

    assert "pip install -e '.[runtime]'" in missed.value.remedy
    assert told == list(tmp_path.iterdir()) == []
