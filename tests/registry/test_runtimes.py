"""Runtime bundles in the registry, and the one that a device gets."""

import pytest

from slmops.artifact import runtime, sign
from slmops.artifact.runtime import Platform, Runtime
from slmops.errors import ReleaseError
from slmops.registry import release, runtimes
from slmops.registry.catalog import Reference
from slmops.registry.layout import Layout

PI, PC = Platform("aarch64", "3.11"), Platform("x86_64", "3.11")


@pytest.fixture
def layout(tmp_path):
    return Layout(tmp_path / "registry")


@pytest.fixture
def publish(layout, tmp_path):
    key = tmp_path / "key"
    sign.make_key(key, "test")

    def published(version, *platforms, provides=("gguf", "onnx"), created="2026-01-01T00:00:00Z", wheel=b"1"):
        folders = {}
        for platform in platforms:
            folder = tmp_path / f"{version}-{platform}-{created[:4]}"
            folder.mkdir()
            said = Runtime(
                "runtime", version, platform.arch, platform.python, "2.28", [*provides], [], 1, 1, {}
            )
            (folder / runtime.FILE_NAME).write_bytes(runtime.render(said))
            (folder / "numpy-1-py3-none-any.whl").write_bytes(wheel)
            folders[str(platform)] = folder
        return runtimes.publish(layout, folders, created=created, key=key)

    return published


def test_a_bundle_is_a_release_whose_artifacts_stand_under_platforms(layout, publish):
    signed = publish("1.0.0", PI, PC)

    assert [name for name, _ in signed.release.artifacts] == ["aarch64-cp311", "x86_64-cp311"]
    assert [entry.arch for _, entry in signed.release.artifacts] == ["aarch64", "x86_64"]
    assert release.find(layout, Reference("runtime", "1.0.0")).blob == signed.blob
    assert [b.reference for b in runtimes.bundles(layout)] == ["runtime:1.0.0"] * 2


def test_the_newest_for_a_platform_is_chosen(layout, publish):
    publish("1.9.0", PI)
    publish("1.10.0", PI)
    publish("2.0.0", PC)

    assert runtimes.choose(layout, PI, ["gguf"]).reference == "runtime:1.10.0"
    assert runtimes.choose(layout, PC, ["onnx"]).platform == "x86_64-cp311"


def test_one_that_does_not_serve_the_format_is_passed_over(layout, publish):
    publish("1.0.0", PI)
    publish("2.0.0", PI, provides=["onnx"])

    assert runtimes.choose(layout, PI, ["onnx"]).reference == "runtime:2.0.0"
    assert runtimes.choose(layout, PI, ["onnx", "gguf"]).reference == "runtime:1.0.0"


def test_a_version_that_is_named_is_chosen(layout, publish):
    publish("1.0.0", PI)
    publish("2.0.0", PI)

    assert runtimes.choose(layout, PI, ["gguf"], Reference("runtime", "1.0.0")).reference == "runtime:1.0.0"


def test_where_none_serves_it_says_what_there_is_and_how_to_build_one(layout, publish):
    publish("1.0.0", PI, provides=["onnx"])

    with pytest.raises(ReleaseError, match=r"runtime:1\.0\.0 for aarch64-cp311 \(onnx\)") as caught:
        runtimes.choose(layout, PI, ["gguf"])
    assert caught.value.remedy == "Run `slmops runtime build --platform aarch64-cp311`."


def test_the_same_wheels_are_the_same_artifact_whenever_they_are_published(publish, tmp_path):
    (first,) = publish("1.0.0", PI).release.artifacts
    other = Layout(tmp_path / "other")
    said = tmp_path / "1.0.0-aarch64-cp311-2026"
    (again,) = runtimes.publish(
        other, {"aarch64-cp311": said}, created="2027-01-01T00:00:00Z", key=tmp_path / "key"
    ).release.artifacts

    assert first == again


def test_a_bundle_under_another_platform_is_refused(layout, publish, tmp_path):
    publish("1.0.0", PI)

    with pytest.raises(ReleaseError, match="its own platform"):
        runtimes.publish(
            layout,
            {"x86_64-cp311": tmp_path / "1.0.0-aarch64-cp311-2026"},
            created="2026-01-01T00:00:00Z",
            key=tmp_path / "key",
        )
