"""Releases in other places: a real OCI registry, folders, any store of fsspec; and places that lie."""

import base64
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import bcrypt
import fsspec
import pytest

from slmops import digest as digests
from slmops.artifact import manifest, sign, vouch
from slmops.errors import IntegrityError, RegistryError, ReleaseError, UnreachableError, UsageError
from slmops.registry import channels, oci, referrers, release
from slmops.registry.catalog import Reference
from slmops.registry.collect import collect
from slmops.registry.folder import Folder
from slmops.registry.layout import Layout
from slmops.registry.open_remote import open_remote
from slmops.registry.pull import pull
from slmops.registry.push import push

CREATED = "2025-01-01T00:00:00Z"
DEMO = Reference("demo", "1.0.0")
SERVER = "docker-registry"


def unheard(_count):
    """Hear of bytes, and do nothing with it."""


@pytest.fixture
def publish(folder, key):
    """Publish demo of a version, for profile pi."""

    def make(layout, version, **how):
        return release.publish(layout, {"pi": folder("pi", version, **how)}, created=CREATED, key=key)

    return make


@pytest.fixture
def judge(trust):
    """Believe the release key."""
    return lambda index, signatures: vouch.release(trust, index, signatures)


@pytest.fixture
def other(tmp_path):
    """A second, empty registry of an operator."""
    return Layout(tmp_path / "other")


@pytest.fixture
def send(layout):
    """Push demo:1.0.0."""
    return lambda remote: push(layout, remote, DEMO, unheard)


@pytest.fixture
def fetch(other, judge):
    """Pull into the other registry."""
    return lambda remote, name="demo:1.0.0": pull(other, remote, name, judge, unheard)


@pytest.fixture
def desk(layout, other, at, send, fetch):
    """What an operator has at hand."""
    return SimpleNamespace(layout=layout, other=other, at=at, send=send, fetch=fetch)


def config(folder, port, auth):
    return f"""
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {folder}}}, delete: {{enabled: true}}}}
http: {{addr: "127.0.0.1:{port}"}}
{auth}
"""


@pytest.fixture
def serve(tmp_path):
    """Start Debian's docker-registry; return its host:port."""
    if shutil.which(SERVER) is None:
        pytest.skip(f"{SERVER} is not installed (apt-get install {SERVER})")
    running = []

    def start(auth=""):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        written = tmp_path / f"config-{port}.yml"
        written.write_text(config(tmp_path / f"storage-{port}", port, auth))
        running.append(
            subprocess.Popen([SERVER, "serve", written], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        )
        until = time.monotonic() + 30
        while time.monotonic() < until:
            with socket.socket() as asked:
                if asked.connect_ex(("127.0.0.1", port)) == 0:
                    return f"127.0.0.1:{port}"
        pytest.fail(f"{SERVER} did not listen")

    yield start
    for each in running:
        each.terminate()
        each.wait(10)


def same(layout, other, signed):
    """Say whether another registry has the release to the last byte."""
    found = release.find(other, DEMO)
    assert found.index == signed.index
    for _, entry in signed.release.artifacts:
        built = release.artifact(other, entry)
        assert built == release.artifact(layout, entry)
        for _, blob in built.files:
            assert other.path(blob.digest).read_bytes() == layout.path(blob.digest).read_bytes()
    return True


@pytest.mark.journey
def test_a_release_goes_through_an_oci_registry_and_comes_back_the_same(signed, serve, trust, desk):
    url = f"oci://{serve()}/team/demo"

    first = desk.send(desk.at(url))
    again = desk.send(desk.at(url))
    came = desk.fetch(desk.at(url))

    assert first.sent > 2 * oci.CHUNK
    assert again.sent <= 2 * 1024
    assert came.sent == again.there
    assert same(desk.layout, desk.other, signed)
    release.verify(desk.other, release.find(desk.other, DEMO), trust)


@pytest.mark.journey
def test_an_independent_client_reads_what_was_pushed(signed, serve, tmp_path, desk):
    python = Path(os.environ.get("SLMOPS_ORAS_PYTHON", sys.executable))
    if subprocess.run([python, "-c", "import oras"], capture_output=True, check=False).returncode:
        pytest.skip("the oras client is not installed: set SLMOPS_ORAS_PYTHON to a Python that has it")
    host = serve()
    desk.send(desk.at(f"oci://{host}/team/demo"))
    script = """
import json, sys
import oras.client
host, out = sys.argv[1:]
client = oras.client.OrasClient(hostname=host, insecure=True)
kinds = ["application/vnd.oci.image.index.v1+json"]
index = client.get_manifest(f"{host}/team/demo:1.0.0", allowed_media_type=kinds)
for entry in index["manifests"]:
    profile = entry["annotations"]["dev.slmops.profile"]
    client.pull(target=f"{host}/team/demo@{entry['digest']}", outdir=f"{out}/{profile}")
"""
    subprocess.run([python, "-c", script, host, tmp_path / "out"], check=True, timeout=120)

    for profile, entry in signed.release.artifacts:
        built = release.artifact(desk.layout, entry)
        came = {path.name: path.read_bytes() for path in (tmp_path / "out" / profile).iterdir()}
        assert came == {name: desk.layout.get(blob) for name, blob in built.files}


@pytest.mark.journey
def test_a_registry_that_asks_who_comes_is_told_what_docker_login_has_kept(
    signed, serve, tmp_path, monkeypatch, desk
):
    hashed = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()
    (tmp_path / "htpasswd").write_text(f"ada:{hashed}\n")
    host = serve(f"auth: {{htpasswd: {{realm: x, path: {tmp_path / 'htpasswd'}}}}}")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    remote = desk.at(f"oci://{host}/demo")

    with pytest.raises(RegistryError, match=r"does not let you at demo: 401") as told:
        desk.send(remote)
    assert told.value.remedy.startswith(f"Run `docker login {host}`")

    (tmp_path / "docker").mkdir()
    kept = {"auths": {host: {"auth": base64.b64encode(b"ada:secret").decode()}}}
    (tmp_path / "docker" / "config.json").write_text(json.dumps(kept))
    desk.send(remote)
    assert remote.find("demo:1.0.0") == signed.blob


@pytest.mark.journey
def test_a_version_in_an_oci_registry_never_changes_and_a_channel_moves(
    signed, serve, publish, tmp_path, desk
):
    remote = desk.at(f"oci://{serve()}/demo")
    desk.send(remote)
    twin = publish(desk.other, "1.0.1")
    impostor = Layout(tmp_path / "impostor")
    shutil.rmtree(tmp_path / "artifacts")
    publish(impostor, "1.0.0", model=b"other")

    with pytest.raises(ReleaseError, match="a version never changes"):
        push(impostor, remote, DEMO, unheard)

    push(desk.other, remote, Reference("demo", "1.0.1"), unheard)
    for blob in (signed.blob, twin.blob, signed.blob):
        remote.name("demo@stable", blob, "x")
        assert remote.find("demo@stable") == blob


@pytest.mark.journey
def test_a_registry_that_lost_a_blob_or_has_a_rotten_one_is_refused(signed, serve, tmp_path, desk):
    host = serve()
    remote = desk.at(f"oci://{host}/demo")
    desk.send(remote)
    model = dict(release.artifact(desk.layout, signed.release.entry("nano")).files)["model.gguf"]
    (stored,) = tmp_path.glob(
        f"storage-*/docker/registry/v2/blobs/sha256/*/{digests.hexdigits(model.digest)}/data"
    )

    stored.write_bytes(stored.read_bytes()[:-1] + b"?")
    with pytest.raises(IntegrityError, match="came in its place"):
        desk.fetch(remote)
    stored.write_bytes(stored.read_bytes() + b"more")
    with pytest.raises(IntegrityError, match="more came"):
        desk.fetch(remote)

    assert desk.other.names() == {}


def places(tmp_path):
    return [f"file://{tmp_path / 'shelf'}", f"memory:///{tmp_path.name}/shelf"]


@pytest.mark.parametrize("which", [0, 1], ids=["file", "memory"])
def test_a_release_goes_through_a_store_and_comes_back_the_same(signed, tmp_path, which, desk):
    url = places(tmp_path)[which]

    first = desk.send(desk.at(url))
    again = desk.send(desk.at(url))
    desk.fetch(desk.at(url))

    assert (first.there, again.there) == (0, first.sent - (first.sent - again.there))
    assert same(desk.layout, desk.other, signed)


@pytest.mark.parametrize("which", [0, 1], ids=["file", "memory"])
def test_what_lies_in_a_store_is_an_oci_layout(signed, tmp_path, which, at, send):
    url = places(tmp_path)[which]
    send(at(url))

    files, path = fsspec.core.url_to_fs(url)
    assert json.loads(files.cat_file(f"{path}/oci-layout")) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads(files.cat_file(f"{path}/index.json"))
    named = {each["annotations"]["org.opencontainers.image.ref.name"]: each for each in index["manifests"]}
    assert named["demo:1.0.0"]["digest"] == signed.blob.digest
    for each in index["manifests"]:
        data = files.cat_file(f"{path}/blobs/sha256/{digests.hexdigits(each['digest'])}")
        assert digests.of_bytes(data) == each["digest"]


class Lying:
    """A place that changes one thing of what it is asked for."""

    def __init__(self, true, lie):
        self.true, self.where, self.lie = true, true.where, lie

    def find(self, name):
        return self.true.find(self.lie.get("find", name))

    def referrers(self, subject):
        return self.lie.get("referrers", self.true.referrers)(subject)

    def read(self, blob, start):
        return self.lie.get(blob.digest, self.true.read)(blob, start)


@pytest.fixture
def shelf(layout, folder, key, tmp_path):
    """A folder that has demo:1.0.0 and demo:0.9.0."""
    for version in ("0.9.0", "1.0.0"):
        release.publish(layout, {"pi": folder("pi", version)}, created=CREATED, key=key)
    there = Folder(Layout(tmp_path / "shelf"), "file:///shelf")
    for version in ("0.9.0", "1.0.0"):
        push(layout, there, Reference("demo", version), unheard)
    return there


def blobs_of(layout):
    signed = release.find(layout, DEMO)
    built = release.artifact(layout, signed.release.entry("pi"))
    return {
        "index": signed.blob,
        "manifest": signed.release.entry("pi").blob,
        "config": built.config,
        **dict(built.files),
    }


@pytest.mark.parametrize("what", ["index", "manifest", "config", "model.gguf", "artifact.json"])
@pytest.mark.parametrize("how", ["flipped", "longer", "shorter", "another"])
def test_a_place_that_lies_about_a_blob_is_refused_and_leaves_no_name(shelf, what, how, desk):
    blob = blobs_of(desk.layout)[what]
    data = desk.layout.get(blob)
    told = {
        "flipped": bytes([data[0] ^ 1]) + data[1:],
        "longer": data + b"\0" * 100,
        "shorter": data[:-1],
        "another": desk.layout.get(blobs_of(desk.layout)["README.md"]),
    }[how]
    lying = Lying(shelf, {blob.digest: lambda _blob, start: iter([told[start:]])})

    with pytest.raises((IntegrityError, UnreachableError)):
        desk.fetch(lying)

    assert desk.other.names() == {}
    assert not desk.other.path(blob.digest).exists()


def test_a_blob_without_an_end_is_cut_off_at_its_size(layout, shelf, fetch):
    blob = blobs_of(layout)["model.gguf"]
    given = []

    def endless(_blob, _start):
        while True:
            given.append(1)
            yield b"x" * 1024

    with pytest.raises(IntegrityError, match="more came"):
        fetch(Lying(shelf, {blob.digest: endless}))
    assert len(given) == 1


@pytest.mark.usefixtures("layout")
def test_another_release_in_the_place_of_the_one_asked_for_is_refused(shelf, other, fetch):
    with pytest.raises(IntegrityError, match=r"gives demo:0\.9\.0 in the place of demo:1\.0\.0"):
        fetch(Lying(shelf, {"find": "demo:0.9.0"}))

    assert other.names() == {}


@pytest.mark.parametrize(
    ("signatures", "says"),
    [
        (lambda _shelf, _subject: [], "is not signed"),
        (lambda shelf, _subject: shelf.referrers(shelf.find("demo:0.9.0")), "signature does not hold"),
    ],
    ids=["missing", "of another release"],
)
def test_a_release_whose_signature_is_withheld_or_exchanged_is_refused_before_any_file_comes(
    shelf, other, signatures, says, fetch
):
    asked = []
    lying = Lying(shelf, {"referrers": lambda subject: signatures(shelf, subject)})
    lying.read = lambda blob, start: asked.append(blob.media_type) or shelf.read(blob, start)

    with pytest.raises(IntegrityError, match=says):
        fetch(lying)

    assert not any("cncf" in kind for kind in asked)
    assert other.names() == {}


def test_a_release_signed_by_a_stranger_is_refused(layout, folder, tmp_path, fetch, send):
    sign.make_key(tmp_path / "stranger", "stranger")
    release.publish(layout, {"pi": folder("pi")}, created=CREATED, key=tmp_path / "stranger")
    shelf = Folder(Layout(tmp_path / "shelf"), "file:///shelf")
    send(shelf)

    with pytest.raises(IntegrityError, match="signature does not hold"):
        fetch(shelf)


def test_a_pull_goes_on_where_a_link_broke(layout, shelf, other, fetch):
    blob = blobs_of(layout)["model.gguf"]
    data, starts = layout.get(blob), []

    def torn(_blob, start):
        starts.append(start)
        yield data[start : start + 3]
        if start + 3 < len(data):
            raise UnreachableError("the link broke")

    fetch(Lying(shelf, {blob.digest: torn}))

    assert starts == list(range(0, len(data), 3))
    assert other.get(blob) == data


def test_a_pull_that_was_ended_is_gone_on_with_by_the_next(layout, shelf, fetch):
    blob = blobs_of(layout)["model.gguf"]
    data = layout.get(blob)

    def killed(_blob, start):
        yield data[start : start + 4]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(Lying(shelf, {blob.digest: killed}))
    starts = []
    honest = Lying(shelf, {blob.digest: lambda b, start: starts.append(start) or shelf.read(b, start)})
    fetch(honest)

    assert starts == [4]


def test_a_blob_that_has_rotted_here_is_fetched_again(layout, shelf, other, fetch):
    fetch(shelf)
    blob = blobs_of(layout)["model.gguf"]
    other.path(blob.digest).chmod(0o644)
    other.path(blob.digest).write_bytes(b"?" * blob.size)

    fetch(shelf)

    other.check(blob)


def test_what_has_rotted_here_is_not_pushed(layout, signed, tmp_path, at, send):
    model = dict(release.artifact(layout, signed.release.entry("nano")).files)["model.gguf"]
    layout.path(model.digest).chmod(0o644)
    layout.path(model.digest).write_bytes(b"?" * model.size)

    with pytest.raises(IntegrityError, match="has rotted"):
        send(at(f"file://{tmp_path / 'shelf'}"))
    assert Layout(tmp_path / "shelf").names() == {}


def test_a_release_here_is_not_overwritten_by_another_of_its_name(shelf, folder, key, tmp_path, desk):
    shutil.rmtree(tmp_path / "artifacts")
    mine = release.publish(desk.other, {"pi": folder("pi", model=b"mine")}, created=CREATED, key=key)

    with pytest.raises(ReleaseError, match="a version never changes"):
        desk.fetch(shelf)
    assert release.find(desk.other, DEMO) == mine


def test_a_channel_is_pulled_forwards_and_not_back(layout, shelf, other, fetch):
    channels.set_channel(layout, "stable", DEMO, at=CREATED)
    shelf.name("demo@stable", layout.names()["demo@stable"], "x")

    came = fetch(shelf, "demo@stable")
    assert came.release.reference == "demo:1.0.0"

    channels.set_channel(other, "stable", DEMO, at=CREATED)
    which = channels.stand(other)[0][0]
    with pytest.raises(ReleaseError, match="it is not moved back"):
        channels.require_forward(other, which, fetch(shelf, "demo:0.9.0").release)


def test_a_place_that_says_an_index_is_something_else_does_not_have_its_content_swept(
    shelf, other, trust, fetch
):
    lying = Lying(shelf, {})
    lying.find = lambda name: replace(shelf.find(name), media_type="text/plain")

    fetch(lying)
    collect(other, dict)

    release.verify(other, release.find(other, DEMO), trust)


@pytest.mark.parametrize("name", ["demo:1:0", "demo:../1", "Demo:1.0.0"])
def test_a_release_whose_name_nobody_can_give_is_refused_though_it_is_signed(signed, layout, key, name, desk):
    called, _, version = name.partition(":")
    odd = replace(signed.release, name=called, version=version)
    index = manifest.render_release(odd)
    blob = layout.put([index], manifest.INDEX_TYPE)
    release.keep_signatures(layout, blob, [sign.sign(index, key)])
    lying = Lying(Folder(layout, "here"), {})
    lying.find = lambda _name: blob

    with pytest.raises(UsageError, match=r"release (name|version)"):
        desk.fetch(lying, name)
    assert desk.other.names() == {}


def test_more_signatures_than_anybody_needs_are_not_kept(shelf, other, layout, fetch):
    signed = release.find(layout, DEMO)
    mark = b"-----BEGIN SSH SIGNATURE-----\n%d\n-----END SSH SIGNATURE-----\n"
    junk = b"".join(mark % number for number in range(200))
    many = layout.put([signed.signatures[0] + junk], referrers.SIGNATURE_TYPE)
    described = {
        "artifactType": referrers.SIGNATURE_TYPE,
        "layers": [{"mediaType": many.media_type, "digest": many.digest, "size": many.size}],
    }
    listed = layout.put([manifest.canonical(described)], manifest.MANIFEST_TYPE)
    lying = Lying(shelf, {"referrers": lambda _subject: [listed]})
    lying.read = lambda blob, start: Folder(layout, "").read(blob, start)

    fetch(lying)

    assert len(release.find(other, DEMO).signatures) == sign.MOST


def test_what_lies_in_a_folder_is_not_swept_while_somebody_pushes_there(layout, signed, tmp_path):
    there = Layout(tmp_path / "shelf")
    there.put([b"a beginning"], "x")

    with open_remote(f"file://{there.folder}", make=True) as remote:
        push(layout, remote, DEMO, unheard)
        with pytest.raises(ReleaseError, match="is in use"):
            collect(there, dict)
    assert collect(there, dict).files == 1
    assert there.names()["demo:1.0.0"] == signed.blob


def test_a_folder_that_is_not_there_is_not_made_by_looking(tmp_path):
    with (
        pytest.raises(UsageError, match="there is no such folder"),
        open_remote(f"file://{tmp_path / 'nothing'}"),
    ):
        pass
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize(
    "entry",
    [
        {"mediaType": "x", "digest": 3, "size": 1},
        {"mediaType": "x", "digest": "sha256:x", "size": "1"},
        {"mediaType": None, "digest": "sha256:x", "size": 1},
        {"mediaType": "x", "digest": "sha256:x", "size": 1, "annotations": []},
        {"mediaType": "x", "digest": "sha256:x"},
        "x",
    ],
)
def test_an_index_of_strange_things_is_refused(tmp_path, entry, at):
    (tmp_path / "shelf").mkdir()
    (tmp_path / "shelf" / "index.json").write_text(json.dumps({"manifests": [entry]}))

    with pytest.raises(IntegrityError, match="is no OCI image index"):
        at(f"file://{tmp_path / 'shelf'}").find("demo:1.0.0")


@pytest.mark.parametrize("said", [b"[" * 100_000, b'{"manifests": ' * 100_000, b"[]", b"3", b""])
def test_an_index_or_a_list_that_is_none_is_refused(tmp_path, said, at):
    (tmp_path / "shelf").mkdir()
    (tmp_path / "shelf" / "index.json").write_bytes(said)

    with pytest.raises(IntegrityError):
        at(f"file://{tmp_path / 'shelf'}").find("demo:1.0.0")
    for read in (referrers.listed, referrers.content):
        with pytest.raises(IntegrityError):
            read(said)


@pytest.mark.parametrize(
    "url",
    [
        *("demo", "oci://", "oci://host", "oci://host/UPPER", "oci://user@host/demo", "nonsense://x"),
        *("file://", "file://shelf", "file://shelf/of/ours"),
    ],
)
def test_a_url_that_names_no_place_is_refused(url, at):
    with pytest.raises(UsageError):
        at(url)


def test_a_registry_that_is_not_there_is_unreachable(at):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(UnreachableError, match=r"127\.0\.0\.1"):
            at(f"oci://127.0.0.1:{free.getsockname()[1]}/demo").find("demo:1.0.0")
