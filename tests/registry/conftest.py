import os
from contextlib import ExitStack

import pytest

from slmops.artifact import description as descriptions
from slmops.artifact import golden, sign
from slmops.artifact.description import Description
from slmops.artifact.golden import Golden
from slmops.registry import oci, release
from slmops.registry.layout import Layout
from slmops.registry.open_remote import open_remote


@pytest.fixture(scope="session")
def key(tmp_path_factory):
    """A release key, with its public half beside it."""
    path = tmp_path_factory.mktemp("key") / "release"
    sign.make_key(path, "release")
    return path


@pytest.fixture(scope="session")
def trust(key, trusting):
    """The trust document in which the release key stands."""
    return trusting(key).trust


@pytest.fixture
def layout(tmp_path):
    """An empty registry."""
    return Layout(tmp_path / "registry")


@pytest.fixture
def folder(tmp_path):
    """Make the artifact folder of a profile, with a small model in it."""

    def make(profile, version="1.0.0", *, model=b"weights", name="demo"):
        where = tmp_path / "artifacts" / f"{name}-{version}-{profile}"
        where.mkdir(parents=True)
        said = Description(
            name=name,
            version=version,
            profile=profile,
            arch="aarch64",
            format="gguf",
            type="Q8_0",
            model="model.gguf",
            architecture="llama",
            parameters=1_500_000,
            context=256,
            threads=1,
            micro_batch=8,
            memory_bytes=1 << 20,
            golden=golden.FILE_NAME,
            tokenizer="tokenizer.json",
        )
        (where / descriptions.FILE_NAME).write_bytes(descriptions.render(said))
        (where / "model.gguf").write_bytes(model + profile.encode())
        (where / "tokenizer.json").write_text("{}")
        (where / "README.md").write_text("# demo\n")
        (where / golden.FILE_NAME).write_text(golden.render([Golden("4", prompt="2+2=")]))
        return where

    return make


@pytest.fixture
def signed(layout, folder, key):
    """A release of two artifacts, one with a model larger than a request's content."""
    folders = {"pi": folder("pi", model=os.urandom(2 * oci.CHUNK + 12345)), "nano": folder("nano")}
    return release.publish(layout, folders, created="2025-01-01T00:00:00Z", key=key)


@pytest.fixture
def at():
    """Open places, and close them when the test is over."""
    with ExitStack() as open_ones:
        yield lambda url: open_ones.enter_context(open_remote(url, make=True))
