"""Which releases may go, and what goes with them: laws, and real folders."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops import digest as digests
from slmops.errors import IntegrityError, ReleaseError
from slmops.registry import channels, collect, release, retention, served
from slmops.registry.catalog import Reference
from slmops.registry.layout import Layout
from slmops.registry.retention import Held

ROOT = Path(__file__).parents[2]
CREATED = "2025-01-01T00:00:00Z"
NAMES, NUMBERS, MARKS = st.sampled_from("ab"), st.integers(0, 6), st.sampled_from("uvwxyz")


@st.composite
def registries(draw):
    references = draw(
        st.lists(st.builds(lambda n, v: Reference(n, str(v)), NAMES, NUMBERS), unique=True, max_size=8)
    )
    held = [
        Held(each, frozenset(draw(st.sets(MARKS, max_size=2))), draw(st.sampled_from([each, *references])))
        for each in references
    ]
    stand = (
        draw(st.dictionaries(st.sampled_from(["a@s", "b@s"]), st.sampled_from(references))) if held else {}
    )
    return held, stand, draw(st.dictionaries(MARKS, st.just("a device serves it")))


@given(registries(), st.none() | st.integers(0, 4))
def test_each_release_stays_or_goes_and_for_a_reason(world, keep):
    held, stand, protected = world
    why = retention.reasons(held, stand, protected, keep)

    assert set(why) == {each.reference for each in held}
    assert all(why[reference] for reference in stand.values())
    assert all(why[each.reference] for each in held if each.digests & set(protected))
    if keep is None:
        assert all(why.values())


@given(registries(), st.integers(0, 4))
def test_what_a_release_that_stays_is_built_on_stays(world, keep):
    held, stand, protected = world
    why = retention.reasons(held, stand, protected, keep)

    assert all(why[each.base] for each in held if why[each.reference])


@given(registries(), st.integers(0, 4))
def test_keeping_more_lets_no_more_go(world, keep):
    held, stand, protected = world
    fewer = retention.reasons(held, stand, protected, keep)
    more = retention.reasons(held, stand, protected, keep + 1)

    assert {r for r, reason in more.items() if reason is None} <= {
        r for r, reason in fewer.items() if reason is None
    }


@given(registries(), st.integers(1, 4))
def test_the_newest_of_each_name_stay(world, keep):
    held, stand, protected = world
    why = retention.reasons(held, stand, protected, keep)

    for name in "ab":
        versions = sorted(int(each.reference.version) for each in held if each.reference.name == name)
        assert all(why[Reference(name, str(version))] for version in versions[-keep:])


@pytest.fixture
def three(layout, folder, key):
    """Publish demo 1, 2 and 3: the first two share a model."""
    models = {"1": b"old", "2": b"old", "3": b"new"}
    return {
        version: release.publish(
            layout, {"pi": folder("pi", version, model=model * 1000)}, created=CREATED, key=key
        )
        for version, model in models.items()
    }


def there(layout):
    return [str(each) for each in release.references(layout)]


def whole(layout, trust):
    for reference in release.references(layout):
        release.verify(layout, release.find(layout, reference), trust)


@pytest.mark.usefixtures("three")
def test_with_all_releases_kept_nothing_goes(layout, trust):
    done = collect.collect(layout, dict)

    assert (done.gone, done.files, done.freed) == ((), 0, 0)
    whole(layout, trust)


@pytest.mark.usefixtures("three")
def test_an_old_release_goes_with_what_it_alone_needs(layout, trust):
    before = {path: path.stat().st_size for path in layout.blobs.iterdir()}

    done = collect.collect(layout, dict, keep=2)

    assert [str(each) for each in done.gone] == ["demo:1"]
    assert there(layout) == ["demo:3", "demo:2"]
    gone = {path: size for path, size in before.items() if not path.exists()}
    assert (done.files, done.freed) == (len(gone), sum(gone.values()))
    whole(layout, trust)
    assert collect.collect(layout, dict, keep=2).files == 0


def test_a_dry_run_says_what_would_go_and_touches_nothing(layout, three):
    before = sorted(layout.folder.rglob("*")), (layout.folder / "index.json").read_bytes()

    said = collect.collect(layout, dict, keep=1, dry_run=True)

    assert (sorted(layout.folder.rglob("*")), (layout.folder / "index.json").read_bytes()) == before
    assert collect.collect(layout, dict, keep=1) == said
    assert len(three) == 3


@pytest.mark.parametrize("by", ["index", "artifact"])
def test_what_a_device_may_return_to_stays(layout, three, by, trust):
    digest = three["1"].blob.digest if by == "index" else three["1"].release.entry("pi").blob.digest

    done = collect.collect(layout, lambda: {digest: "home/edge-1 may return to it"}, keep=1)

    assert there(layout) == ["demo:3", "demo:1"]
    assert done.kept[Reference("demo", "1")] == "home/edge-1 may return to it"
    whole(layout, trust)


@pytest.mark.usefixtures("three")
def test_what_a_channel_names_stays(layout, trust):
    channels.set_channel(layout, "stable", Reference("demo", "1"), at=CREATED)

    assert collect.collect(layout, dict, keep=1).kept[Reference("demo", "1")] == "demo@stable stands for it"
    with pytest.raises(ReleaseError, match="demo:1 stays: demo@stable stands for it"):
        collect.remove(layout, Reference("demo", "1"), dict)
    whole(layout, trust)


def test_a_release_is_removed_by_name_and_freed_by_the_next_collection(layout, three, trust):
    collect.remove(layout, Reference("demo", "3"), dict)

    assert there(layout) == ["demo:2", "demo:1"]
    assert layout.has(three["3"].blob)
    assert collect.collect(layout, dict).freed > 3000
    assert not layout.has(three["3"].blob)
    whole(layout, trust)


def test_a_release_that_a_device_needs_is_not_removed(layout, three):
    with pytest.raises(ReleaseError, match="demo:3 stays: edge-1 serves it"):
        collect.remove(layout, Reference("demo", "3"), lambda: {three["3"].blob.digest: "edge-1 serves it"})

    assert there(layout) == ["demo:3", "demo:2", "demo:1"]


@pytest.mark.usefixtures("three")
def test_what_a_killed_write_left_is_freed(layout, trust):
    (layout.blobs / ".incoming-x").write_bytes(b"x" * 10)
    (layout.blobs / f".part-{'0' * 64}").write_bytes(b"x" * 10)
    layout.put([b"a blob without a name"], "x")

    assert collect.collect(layout, dict).files == 3
    whole(layout, trust)


@pytest.mark.usefixtures("three")
def test_what_other_tools_have_named_or_listed_stays(layout):
    blob = layout.put([b"theirs"], "text/plain")
    index = json.loads((layout.folder / "index.json").read_text())
    index["manifests"].append({"mediaType": blob.media_type, "digest": blob.digest, "size": blob.size})
    (layout.folder / "index.json").write_text(json.dumps(index))

    collect.collect(layout, dict, keep=1)

    layout.check(blob)


def test_a_document_that_cannot_be_read_ends_a_collection_before_anything_goes(layout, three):
    manifest = three["3"].release.entry("pi").blob
    stray = layout.put([b"stray"], "x")
    layout.path(manifest.digest).chmod(0o644)
    layout.path(manifest.digest).write_bytes(b"{}")

    with pytest.raises(IntegrityError, match="has rotted"):
        collect.collect(layout, dict, keep=1)

    assert len(there(layout)) == 3
    layout.check(stray)


@pytest.mark.usefixtures("three")
def test_nothing_is_collected_or_removed_while_somebody_publishes(layout):
    with layout.in_use():
        with pytest.raises(ReleaseError, match="is in use"):
            collect.collect(layout, dict, keep=1)
        with pytest.raises(ReleaseError, match="is in use"):
            collect.remove(layout, Reference("demo", "1"), dict)

    assert len(there(layout)) == 3
    assert len(collect.collect(layout, dict, keep=1).gone) == 2


@pytest.mark.usefixtures("three")
def test_a_publication_that_was_killed_keeps_nobody_from_collecting(layout):
    script = """
import sys
from pathlib import Path
from slmops.registry.layout import Layout
with Layout(Path(sys.argv[1])).in_use():
    print("in use", flush=True)
    sys.stdin.read()
"""
    words = [sys.executable, "-c", script, str(layout.folder)]
    with subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"in use\n"
        with pytest.raises(ReleaseError, match="is in use"):
            collect.collect(layout, dict)
        other.send_signal(signal.SIGKILL)
    collect.collect(layout, dict)


@pytest.mark.usefixtures("three")
def test_a_collection_that_ends_anywhere_leaves_every_named_release_whole(layout, trust, tmp_path):
    strays = [layout.put([f"stray {n}".encode()], "x") for n in range(5)]
    script = """
import sys
from pathlib import Path
from slmops.registry.collect import collect
from slmops.registry.layout import Layout
left = int(sys.argv[2])
def watch(event, words):
    global left
    if event in ("os.remove", "os.rename") and "sha256" in str(words[0]):
        left -= 1
        if left < 0:
            import os
            os.kill(os.getpid(), 9)
sys.addaudithook(watch)
collect(Layout(Path(sys.argv[1])), dict, keep=1)
"""
    ends = []
    for steps in range(60):
        done = subprocess.run(
            [sys.executable, "-c", script, layout.folder, str(steps)], cwd=ROOT, check=False
        )
        ends.append(done.returncode)
        whole(layout, trust)
        if done.returncode == 0:
            break

    assert ends[-1] == 0
    assert len(ends) > 1
    assert there(layout) == ["demo:3"]
    assert not any(layout.has(blob) for blob in strays)
    assert tmp_path.exists()


def test_deltas_of_what_went_go_too(layout, three):
    marks = [
        digests.hexdigits(
            dict(release.artifact(layout, three[v].release.entry("pi")).files)["model.gguf"].digest
        )
        for v in ("1", "3")
    ]
    kept = layout.folder / "deltas" / f"{marks[0][:32]}-{marks[1][:32]}.delta"
    kept.parent.mkdir()
    kept.write_bytes(b"delta")
    (kept.parent / ".making-x").mkdir()
    (kept.parent / ".making-x" / "delta").write_bytes(b"half")

    collect.collect(layout, dict, keep=2)
    assert [path for path in kept.parent.rglob("*") if path.is_file()] == [kept]
    said = collect.collect(layout, dict, keep=1, dry_run=True)
    assert collect.collect(layout, dict, keep=1) == said
    assert not kept.exists()
    assert said.freed > len("delta")


def test_who_needs_what_is_asked_when_nobody_can_be_at_it(layout, three):
    def needed():
        with pytest.raises(ReleaseError, match="is in use"), layout.alone():
            pass
        return {three["1"].blob.digest: "edge-1 serves it"}

    with pytest.raises(ReleaseError, match="demo:1 stays: edge-1 serves it"):
        collect.remove(layout, Reference("demo", "1"), needed)
    collect.collect(layout, needed, keep=1)

    assert there(layout) == ["demo:3", "demo:1"]


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize("how", ["removed", "collected"])
def test_a_counter_goes_on_where_it_was_when_its_releases_are_gone(layout, folder, key, how):
    """Devices have seen the counters that went: given again, one would be refused, or be a way back."""
    if how == "removed":
        for version in "321":
            collect.remove(layout, Reference("demo", version), dict)
    else:
        release.publish(layout, {"pi": folder("pi", "0.9")}, created=CREATED, key=key)
        assert collect.collect(layout, dict, keep=1).gone[-1] == Reference("demo", "0.9")
    highest = 3 if how == "removed" else 4

    fresh = release.publish(layout, {"pi": folder("pi", "4")}, created=CREATED, key=key)
    other = release.publish(layout, {"pi": folder("pi", "1", name="other")}, created=CREATED, key=key)

    assert (fresh.release.counter, other.release.counter) == (highest + 1, 1)
    whole_index = json.loads((layout.folder / "index.json").read_text())
    assert whole_index["annotations"] == {"dev.slmops.counter.demo": str(highest)}


class Watched(Layout):
    """A registry that somebody tries to sweep whenever something comes in."""

    def put(self, pieces, media_type):
        with pytest.raises(ReleaseError, match="is in use"):
            collect.collect(Layout(self.folder), dict)
        return super().put(pieces, media_type)


def test_a_signature_is_not_swept_before_it_has_its_name(layout, three, trust, key):
    watched = Watched(layout.folder)

    release.add_signature(watched, three["3"], key)

    release.verify(layout, release.find(layout, Reference("demo", "3")), trust)


def test_what_devices_said_they_hold_is_found_again(tmp_path):
    path = tmp_path / "home" / "served.json"
    assert served.read(path) == {}

    served.record(path, 1.0, {"home/a": ["sha256:x", "sha256:y"], "home/b": []})
    served.record(path, 2.0, {"home/a": ["sha256:z"]})

    assert served.read(path) == {
        "home/a": served.Seen(2.0, ("sha256:z",)),
        "home/b": served.Seen(1.0, ()),
    }
    assert served.forget(path, "home/a")
    assert not served.forget(path, "home/a")
    assert list(served.read(path)) == ["home/b"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": 3}', '{"a": {"at": "x", "slots": []}}'])
def test_a_record_of_devices_that_cannot_be_read_is_refused_and_not_taken_for_empty(tmp_path, text):
    path = tmp_path / "served.json"
    path.write_text(text)

    with pytest.raises(IntegrityError, match="cannot be read"):
        served.read(path)
