"""A store of blobs on disk, over a real directory."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slmops import digest as digests
from slmops.artifact.manifest import Blob
from slmops.errors import IntegrityError, ReleaseError
from slmops.registry.layout import Layout

ROOT = Path(__file__).parents[2]
KIND = "application/octet-stream"
TYPE = "application/vnd.slmops.release.v1+json"


def child(script, *words, **how):
    """Start a second process that uses the registry."""
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, words)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        **how,
    )


def stored(layout):
    return sorted(path.name for path in layout.blobs.iterdir())


@settings(max_examples=30)
@given(st.lists(st.binary(max_size=2000), max_size=4))
def test_what_is_put_is_got(pieces):
    with TemporaryDirectory() as folder:
        layout = Layout(Path(folder) / "registry")
        blob = layout.put(pieces, KIND)

        assert layout.get(blob) == b"".join(pieces)
        assert blob == Blob(KIND, digests.of_bytes(b"".join(pieces)), sum(map(len, pieces)))
        layout.check(blob)


def test_the_same_content_is_kept_once(layout):
    assert layout.put([b"same"], KIND) == layout.put([b"sa", b"me"], KIND)

    assert stored(layout) == [digests.hexdigits(digests.of_bytes(b"same"))]


def test_a_blob_lies_where_oci_says_and_cannot_be_written(layout):
    blob = layout.put([b"content"], KIND)
    path = layout.folder / "blobs" / "sha256" / digests.hexdigits(blob.digest)

    assert layout.path(blob.digest) == path
    assert path.stat().st_mode & 0o777 == 0o444


@settings(max_examples=30)
@given(st.binary(min_size=1, max_size=300), st.data())
def test_a_flipped_bit_anywhere_is_found(content, data):
    with TemporaryDirectory() as folder:
        layout = Layout(Path(folder))
        blob = layout.put([content], KIND)
        path = layout.path(blob.digest)
        rotten = bytearray(content)
        rotten[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        path.chmod(0o644)
        path.write_bytes(rotten)

        for read in (layout.get, layout.check):
            with pytest.raises(IntegrityError, match=r"has rotted: expected .* bytes of .*, got ") as told:
                read(blob)
            assert str(path) in told.value.remedy


@pytest.mark.parametrize("content", [b"", b"conten", b"content!"])
def test_a_torn_or_grown_blob_is_found(layout, content):
    blob = layout.put([b"content"], KIND)
    layout.path(blob.digest).chmod(0o644)
    layout.path(blob.digest).write_bytes(content)

    with pytest.raises(IntegrityError, match=f"expected 7 bytes of .*, got {len(content)} bytes"):
        layout.check(blob)


def test_a_wrong_size_in_a_descriptor_is_found(layout):
    blob = layout.put([b"content"], KIND)

    with pytest.raises(IntegrityError, match="expected 8 bytes"):
        layout.get(Blob(KIND, blob.digest, 8))


@pytest.mark.parametrize("read", [Layout.get, Layout.check])
def test_a_missing_blob_is_named(layout, read):
    digest = digests.of_bytes(b"never stored")

    with pytest.raises(IntegrityError, match=f"blob {digests.short(digest)} is missing from") as told:
        read(layout, Blob(KIND, digest, 12))

    assert str(layout.folder) in str(told.value)


def test_a_rotten_blob_is_made_good_by_putting_it_again(layout):
    blob = layout.put([b"content"], KIND)
    layout.path(blob.digest).chmod(0o644)
    layout.path(blob.digest).write_bytes(b"rotten!")

    layout.put([b"content"], KIND)

    layout.check(blob)


def test_an_empty_registry_has_no_names(layout):
    assert layout.names() == {}
    assert not layout.folder.exists()


def test_a_name_is_found_again_by_another_reader(layout):
    blob = layout.put([b"one"], KIND)
    layout.set_name("demo:1", blob, TYPE)

    assert Layout(layout.folder).names() == {"demo:1": blob}


def test_a_name_never_moves(layout):
    one, two = layout.put([b"one"], KIND), layout.put([b"two"], KIND)
    layout.set_name("demo:1", one, TYPE)

    with pytest.raises(ReleaseError, match="demo:1 is already in the registry as") as told:
        layout.set_name("demo:1", two, TYPE)

    assert digests.short(one.digest) in str(told.value)
    assert digests.short(two.digest) in str(told.value)
    assert told.value.remedy == "Choose a new --version."
    assert layout.names() == {"demo:1": one}


def test_naming_the_same_twice_changes_nothing(layout):
    blob = layout.put([b"one"], KIND)
    layout.set_name("demo:1", blob, TYPE)
    before = (layout.folder / "index.json").read_bytes()

    layout.set_name("demo:1", blob, TYPE)

    assert (layout.folder / "index.json").read_bytes() == before


def test_two_processes_naming_at_once_lose_nothing(layout):
    script = """
import sys
from pathlib import Path
from slmops.registry.layout import Layout
layout = Layout(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
for number in range(25):
    blob = layout.put([f"{sys.argv[2]} {number}".encode()], "text/plain")
    layout.set_name(f"{sys.argv[2]}:{number}", blob, "x")
"""
    both = [child(script, layout.folder, name, text=True) for name in ("left", "right")]
    for each in both:
        assert each.stdout.readline() == "ready\n"
    for each in both:
        each.stdin.write("go\n")
        each.stdin.flush()
    for each in both:
        each.communicate(timeout=60)

    assert [each.returncode for each in both] == [0, 0]
    assert sorted(layout.names()) == sorted(f"{side}:{n}" for side in ("left", "right") for n in range(25))


def test_of_two_processes_with_one_name_exactly_one_has_it(layout):
    script = """
import sys
from pathlib import Path
from slmops.errors import ReleaseError
from slmops.registry.layout import Layout
layout = Layout(Path(sys.argv[1]))
blob = layout.put([sys.argv[2].encode()], "text/plain")
print("ready", flush=True)
sys.stdin.readline()
try:
    layout.set_name("demo:1", blob, "x")
except ReleaseError:
    print("refused")
else:
    print("named", sys.argv[2])
"""
    both = [child(script, layout.folder, name, text=True) for name in ("left", "right")]
    for each in both:
        assert each.stdout.readline() == "ready\n"
    for each in both:
        each.stdin.write("go\n")
        each.stdin.flush()
    told = sorted(each.communicate(timeout=60)[0].strip() for each in both)

    assert told[0].startswith("named ")
    assert told[1] == "refused"
    assert layout.get(layout.names()["demo:1"]) == told[0].removeprefix("named ").encode()


def test_a_put_that_is_killed_leaves_at_most_a_temporary_file(layout):
    script = """
import sys
from pathlib import Path
from slmops.registry.layout import Layout
def pieces():
    yield b"the first half"
    print("half", flush=True)
    yield sys.stdin.buffer.read()
Layout(Path(sys.argv[1])).put(pieces(), "text/plain")
"""
    blob = layout.put([b"earlier"], KIND)
    layout.set_name("demo:1", blob, TYPE)
    with child(script, layout.folder) as putting:
        assert putting.stdout.readline() == b"half\n"
        putting.send_signal(signal.SIGKILL)

    whole = [name for name in stored(layout) if not name.startswith(".incoming-")]
    assert whole == [digests.hexdigits(blob.digest)]
    assert layout.names() == {"demo:1": blob}


def test_a_put_whose_source_fails_leaves_nothing(layout):
    def pieces():
        yield b"the first half"
        raise OSError("the disk it is read from is gone")

    with pytest.raises(OSError, match="is gone"):
        layout.put(pieces(), KIND)

    assert stored(layout) == []


@pytest.mark.parametrize("text", ["", "{", "not json"])
def test_an_index_that_is_not_json_is_named(layout, text):
    layout.put([b"one"], KIND)
    (layout.folder / "index.json").write_text(text)

    with pytest.raises(IntegrityError, match=r"index\.json is not JSON"):
        layout.names()


@pytest.mark.parametrize("text", ["3", "[]", "{}", '{"manifests": null}', '{"manifests": [3]}'])
def test_an_index_that_is_no_index_is_named(layout, text):
    layout.put([b"one"], KIND)
    (layout.folder / "index.json").write_text(text)

    with pytest.raises(IntegrityError, match=r"index\.json"):
        layout.names()


def test_entries_of_other_tools_without_a_name_are_left_alone(layout):
    blob = layout.put([b"one"], KIND)
    layout.set_name("demo:1", blob, TYPE)
    index = json.loads((layout.folder / "index.json").read_text())
    foreign = {"mediaType": KIND, "digest": blob.digest, "size": blob.size}
    (layout.folder / "index.json").write_text(
        json.dumps({**index, "manifests": [foreign, *index["manifests"]]})
    )

    layout.set_name("demo:2", blob, TYPE)

    assert sorted(layout.names()) == ["demo:1", "demo:2"]
    assert foreign in json.loads((layout.folder / "index.json").read_text())["manifests"]


def test_the_layout_is_what_oci_requires(layout):
    layout.set_name("demo:1.0.0", layout.put([b"one"], KIND), TYPE)

    assert json.loads((layout.folder / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads((layout.folder / "index.json").read_text())
    assert index["schemaVersion"] == 2
    assert index["mediaType"] == "application/vnd.oci.image.index.v1+json"
    (entry,) = index["manifests"]
    assert {"mediaType", "digest", "size"} <= set(entry)
    assert entry["annotations"]["org.opencontainers.image.ref.name"] == "demo:1.0.0"
    assert all(re.fullmatch("[0-9a-f]{64}", name) for name in stored(layout))
