"""Channels: names that move from release to release, over a real folder."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slmops.artifact import manifest
from slmops.artifact.manifest import Blob, Entry, Release
from slmops.errors import IntegrityError, ReleaseError, UsageError
from slmops.registry import channel, channels, release
from slmops.registry.catalog import Reference
from slmops.registry.channel import Channel, Move
from slmops.registry.layout import Layout

AT = "2026-01-01T00:00:00Z"
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=20)
VERSIONS = ["1.0.0", "1.1.0", "2.0.0-rc.1", "2.0.0"]


def put(layout, version, counter=0):
    """Store a release that is signed by nobody who matters here."""
    empty = layout.put([b"{}"], manifest.CONFIG_TYPE)
    entry = Entry(Blob(manifest.MANIFEST_TYPE, empty.digest, 2), "x")
    held = Release("demo", version, AT, (("pi", entry),), counter)
    blob = layout.put([manifest.render_release(held)], manifest.INDEX_TYPE)
    release.keep_signatures(layout, blob, [b"signature"])
    layout.set_name(f"demo:{version}", blob, manifest.RELEASE_TYPE)
    return Reference("demo", version)


def found(layout, version):
    """The release demo of a version."""
    return release.find(layout, Reference("demo", version)).release


@pytest.fixture
def held(layout):
    """Four versions of demo."""
    return [put(layout, version) for version in VERSIONS]


@given(st.from_regex(r"[a-z][a-z0-9]{0,9}([._-][a-z0-9]{1,9}){0,3}", fullmatch=True))
def test_a_channel_is_read_as_it_is_printed(name):
    assert channel.parse(f"demo@{name}") == Channel("demo", name)
    assert str(channel.parse(f"demo@{name}")) == f"demo@{name}"


@pytest.mark.parametrize("text", ["", "demo", "demo@", "@stable", "demo@1", "demo@a b", "demo@A", "demo:1@a"])
def test_what_is_no_channel_is_refused(text):
    with pytest.raises(UsageError):
        channel.parse(text)


@given(st.lists(st.builds(Move, TEXT, TEXT, TEXT)))
def test_moves_are_read_as_they_are_written(moves):
    assert channel.moves(channel.render(tuple(moves))) == tuple(moves)


@pytest.mark.parametrize("text", ["", "{", "3", '[{"to": "x"}]', "[3]"])
def test_moves_that_cannot_be_read_are_refused(text):
    with pytest.raises(IntegrityError, match="moves of a channel"):
        channel.moves(text)


@settings(max_examples=10)
@given(st.lists(st.tuples(st.sampled_from(["stable", "beta"]), st.sampled_from(VERSIONS)), max_size=8))
def test_a_channel_stands_where_it_was_last_set_and_remembers_each_move(steps):
    with TemporaryDirectory() as folder:
        layout = Layout(Path(folder))
        for version in VERSIONS:
            put(layout, version)
        stood = {"stable": [], "beta": []}
        for name, version in steps:
            channels.set_channel(layout, name, Reference("demo", version), at=AT)
            if stood[name][-1:] != [version]:
                stood[name].append(version)
        for name, versions in stood.items():
            which = Channel("demo", name)
            assert [move.to for move in channels.moves(layout, which)] == [f"demo:{v}" for v in versions]
            if versions:
                assert channels.resolve(layout, str(which)) == Reference("demo", versions[-1])
        there = {str(which): reference.version for which, reference in channels.stand(layout)}
        assert there == {f"demo@{name}": versions[-1] for name, versions in stood.items() if versions}
        assert [each.version for each in release.references(layout)] == VERSIONS[::-1]


@pytest.mark.usefixtures("held")
def test_a_version_resolves_to_itself(layout):
    assert channels.resolve(layout, "demo:9") == Reference("demo", "9")


@pytest.mark.usefixtures("held")
def test_a_channel_that_is_not_there_is_named_with_those_that_are(layout):
    channels.set_channel(layout, "beta", Reference("demo", "2.0.0"), at=AT)

    with pytest.raises(ReleaseError, match=r"no channel demo@stable; of demo there is demo@beta") as told:
        channels.resolve(layout, "demo@stable")
    assert told.value.remedy == "Set it: slmops release channel set stable demo:VERSION."


@pytest.mark.usefixtures("held")
def test_a_channel_stands_for_nothing_that_is_not_there(layout):
    with pytest.raises(ReleaseError, match="no release demo:3"):
        channels.set_channel(layout, "stable", Reference("demo", "3"), at=AT)

    assert channels.stand(layout) == []


def test_a_channel_cannot_be_called_like_a_version(layout):
    put(layout, "nightly")

    with pytest.raises(UsageError, match="nightly is a version of demo"):
        channels.set_channel(layout, "nightly", Reference("demo", "nightly"), at=AT)


@pytest.mark.usefixtures("held")
def test_a_channel_that_another_tool_set_has_no_moves(layout):
    blob = layout.names()["demo:1.0.0"]
    layout.move_name("demo@stable", blob, manifest.RELEASE_TYPE, {})

    assert channels.moves(layout, Channel("demo", "stable")) == ()
    assert channels.resolve(layout, "demo@stable") == Reference("demo", "1.0.0")


@pytest.mark.parametrize(("offered", "held_version"), [("1.0.0", "1.1.0"), ("2.0.0-rc.1", "2.0.0")])
@pytest.mark.usefixtures("held")
def test_a_pulled_channel_goes_forwards_alone(layout, offered, held_version):
    which = channels.set_channel(layout, "stable", Reference("demo", held_version), at=AT)

    channels.require_forward(layout, which, found(layout, held_version))
    with pytest.raises(ReleaseError, match="is not moved back") as told:
        channels.require_forward(layout, which, found(layout, offered))
    assert told.value.remedy.endswith(f"slmops release channel set stable demo:{offered}.")


def test_which_release_is_the_older_is_for_the_counters_to_say(layout):
    for version, counter in (("2.0.0", 1), ("1.0.1", 2)):
        put(layout, version, counter)
    which = channels.set_channel(layout, "stable", Reference("demo", "2.0.0"), at=AT)

    channels.require_forward(layout, which, found(layout, "1.0.1"))
    channels.set_channel(layout, "stable", Reference("demo", "1.0.1"), at=AT)
    with pytest.raises(ReleaseError, match=r"demo:1\.0\.1 here and for the older demo:2\.0\.0 there"):
        channels.require_forward(layout, which, found(layout, "2.0.0"))


@pytest.mark.usefixtures("held")
def test_a_channel_is_an_entry_that_other_tools_read_as_the_release(layout):
    channels.set_channel(layout, "stable", Reference("demo", "1.1.0"), at=AT)

    index = json.loads((layout.folder / "index.json").read_text())
    (entry,) = [
        each
        for each in index["manifests"]
        if each["annotations"]["org.opencontainers.image.ref.name"] == "demo@stable"
    ]
    assert entry["digest"] == layout.names()["demo:1.1.0"].digest
