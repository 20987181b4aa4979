"""An OCI registry over HTTP as it may be: fussy, busy, cut off, and one that is up to no good."""

import base64
import json
import os
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from slmops import digest as digests
from slmops.artifact import manifest
from slmops.artifact.manifest import Blob
from slmops.errors import IntegrityError, RegistryError, UnreachableError
from slmops.registry import oci, referrers


class Scripted(BaseHTTPRequestHandler):
    """A server that says what a test has written down; `state` has what it was asked."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_words):
        """Keep quiet."""

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def handle_one(self):
        """Answer as `script` says by path, and with 404 elsewhere; keep who was said to ask."""
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        state, path = self.server.state, self.path.partition("?")[0]
        state["asked"].append((path, self.headers.get("Authorization")))
        status, body, headers = state["script"].get(path, (404, b"", {}))
        return self.answer(status, body, **headers)

    def do_GET(self):
        """Answer whatever is asked."""
        self.handle_one()

    do_HEAD = do_POST = do_PUT = do_PATCH = do_GET  # noqa: N815 - names of http.server


class Fussy(Scripted):
    """A registry that wants a token, is busy at first, cuts a chunk, and lists referrers by its API."""

    def handle_one(self):
        state = self.server.state
        length = int(self.headers.get("Content-Length", 0))
        path = self.path.partition("?")[0]
        if path == "/token":
            state["tokens"] += 1
            return self.answer(200, json.dumps({"token": f"t{state['tokens']}"}).encode())
        if self.headers.get("Authorization") != f"Bearer t{state['valid']}":
            self.rfile.read(length)
            state["valid"] = state["tokens"] + 1
            where = f"http://127.0.0.1:{self.server.server_port}/token"
            return self.answer(401, WWW_Authenticate=f'Bearer realm="{where}",service="s",scope="x"')
        if state["busy"] > 0:
            self.rfile.read(length)
            state["busy"] -= 1
            return self.answer(503, Retry_After="0")
        return self.work(path, length, state)

    def work(self, path, length, state):  # noqa: PLR0911 - one for each thing that is asked
        if self.command == "PATCH" and state["cuts"] > 0:
            state["cuts"] -= 1
            state["upload"] += self.rfile.read(length // 2)
            self.close_connection = True
            return self.connection.shutdown(socket.SHUT_RDWR)
        body = self.rfile.read(length)
        upload = "/v2/demo/blobs/uploads/1"
        if self.command == "POST":
            state["upload"] = b""
            return self.answer(202, Location=upload)
        if path == upload and self.command == "GET":
            return self.answer(204, Location=upload, Range=f"0-{max(0, len(state['upload']) - 1)}")
        if path == upload and self.command == "PATCH":
            state["upload"] += body
            return self.answer(202, Location=upload)
        if path == upload and self.command == "PUT":
            state["blobs"][digests.of_bytes(state["upload"] + body)] = state["upload"] + body
            return self.answer(201)
        if self.command == "PUT":
            state["blobs"][digests.of_bytes(body)] = body
            return self.answer(201, OCI_Subject="sha256:x")
        found = state["blobs"].get(path.rpartition("/")[2])
        if self.command == "GET" and "/referrers/" in path:
            return self.answer(200, state["referrers"])
        return self.answer(200, found) if found is not None else self.answer(404)


@contextmanager
def served(handler, **state):
    """A server, and its state, which a test sets and reads."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.state = state
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def fussy():
    """A server of one repository, `demo`."""
    state = {"tokens": 0, "valid": -1, "busy": 0, "cuts": 0, "upload": b"", "blobs": {}, "referrers": b"{}"}
    with served(Fussy, **state) as server:
        yield server


@pytest.fixture
def scripted():
    """A server that says what a test writes down."""
    with served(Scripted, script={}, asked=[]) as server:
        yield server


@pytest.fixture
def elsewhere():
    """Another one, to which the first may send people on."""
    with served(Scripted, script={}, asked=[]) as server:
        yield server


@pytest.fixture
def there(fussy, at):
    """The repository that the fussy server has."""
    return at(f"oci://127.0.0.1:{fussy.server_port}/demo")


def large():
    data = os.urandom(2 * oci.CHUNK + 7)
    return data, Blob("application/octet-stream", digests.of_bytes(data), len(data))


def test_a_token_is_fetched_when_it_is_asked_for_and_again_when_it_has_expired(fussy, there):
    assert not there.has(Blob("x", digests.of_bytes(b"x"), 1))
    fussy.state["valid"] = -1
    assert not there.has(Blob("x", digests.of_bytes(b"x"), 1))

    assert fussy.state["tokens"] == 2


def test_a_busy_registry_is_asked_again(fussy, there):
    fussy.state["busy"] = 3

    assert there.find("demo:1.0.0") is None


@pytest.mark.parametrize("cuts", [0, 1, 3])
def test_a_chunk_that_is_cut_is_gone_on_with_where_the_registry_stands(fussy, cuts, there):
    data, blob = large()
    fussy.state["cuts"], starts = cuts, []

    def source(start):
        starts.append(start)
        yield data[start:]

    there.send(blob, source)

    assert fussy.state["blobs"] == {blob.digest: data}
    assert starts == sorted(starts)
    assert len(starts) == cuts + 1


def test_a_list_of_referrers_that_is_none_is_refused(there):
    with pytest.raises(IntegrityError, match="no OCI image index"):
        there.referrers(Blob("x", digests.of_bytes(b"x"), 1))


def test_where_the_referrers_api_is_there_a_signature_is_found_by_it(fussy, layout, signed, there):
    (signature,) = referrers.of(layout.names(), signed.blob)
    there.refer(signature, lambda _start: iter([layout.get(signature)]), signed.blob)
    fussy.state["referrers"] = referrers.with_one(None, signature)

    assert fussy.state["blobs"] == {signature.digest: layout.get(signature)}
    assert there.referrers(signed.blob) == [signature]


X = Blob("application/octet-stream", digests.of_bytes(b"x"), 1)
AT_X = f"/v2/demo/blobs/{X.digest}"


def at_home(server):
    return f"http://127.0.0.1:{server.server_port}"


@pytest.fixture
def remote(scripted, at):
    """The repository that the scripted server has."""
    return at(f"oci://127.0.0.1:{scripted.server_port}/demo")


@pytest.fixture
def logged_in(scripted, tmp_path, monkeypatch):
    """Somebody who has a password for the scripted server's registry."""
    kept = {f"127.0.0.1:{scripted.server_port}": {"auth": base64.b64encode(b"ada:secret").decode()}}
    (tmp_path / "config.json").write_text(json.dumps({"auths": kept}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))


@pytest.mark.usefixtures("logged_in")
@pytest.mark.parametrize("challenge", ["Basic realm=x", 'Bearer realm="{}/token",service="s"'])
def test_a_place_to_which_a_registry_sends_us_on_learns_no_password(scripted, elsewhere, remote, challenge):
    scripted.state["script"][AT_X] = (307, b"", {"Location": f"{at_home(elsewhere)}/x"})
    asks = {"WWW-Authenticate": challenge.format(at_home(elsewhere))}
    elsewhere.state["script"]["/x"] = (401, b"", asks)
    elsewhere.state["script"]["/token"] = (200, b'{"token": "t"}', {})

    with pytest.raises(RegistryError, match="does not let you"):
        remote.has(X)

    assert elsewhere.state["asked"] == [("/x", None)]


@pytest.mark.usefixtures("logged_in")
def test_a_password_is_not_sent_on_with_an_upload(scripted, elsewhere, remote):
    where = {"WWW-Authenticate": "Basic realm=x"}
    scripted.state["script"]["/v2/demo/blobs/uploads/"] = (401, b"", where)
    with pytest.raises(RegistryError):
        remote.send(X, lambda _start: iter([b"x"]))
    assert scripted.state["asked"][-1][1] is not None

    onward = {"Location": f"{at_home(elsewhere)}/up"}
    scripted.state["script"]["/v2/demo/blobs/uploads/"] = (202, b"", onward)
    elsewhere.state["script"]["/up"] = (401, b"", where)
    with pytest.raises(RegistryError):
        remote.send(X, lambda _start: iter([b"x"]))

    assert elsewhere.state["asked"] == [("/up", None)]


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        ((307, b"", {"Location": AT_X}), UnreachableError, "redirects"),
        (
            (401, b"", {"WWW-Authenticate": 'Bearer realm="http://x:y/"'}),
            RegistryError,
            "address that is none",
        ),
        ((401, b"", {"WWW-Authenticate": 'Bearer realm="ftp://x/y"'}), UnreachableError, "ftp"),
        ((500, b'{"errors": 5}', {}), RegistryError, "500"),
        ((500, b"[" * 100_000, {}), RegistryError, "500"),
        ((403, b'{"errors": [{"message": "\\u001b[2Jgo away"}]}', {}), RegistryError, r"403 \[2Jgo away$"),
        ((403, json.dumps({"errors": [{"message": "no" * 9999}]}).encode(), {}), RegistryError, "no{0,300}"),
    ],
    ids=["in a circle", "no address", "another protocol", "a number", "deep", "control letters", "long"],
)
def test_whatever_a_registry_answers_is_an_error_in_words(scripted, remote, answer, kind, says):
    scripted.state["script"][AT_X] = answer

    with pytest.raises(kind, match=says) as told:
        # A HEAD carries no words.
        list(remote.read(X, 0))
    assert len(str(told.value)) < 500


def test_a_token_without_an_end_is_not_read_to_the_end(scripted, remote):
    ask = {"WWW-Authenticate": f'Bearer realm="{at_home(scripted)}/token"'}
    scripted.state["script"] = {AT_X: (401, b"", ask), "/token": (200, b" " * (5 << 20), {})}

    with pytest.raises(RegistryError, match="with more than 4194304 bytes"):
        remote.has(X)


def test_a_manifest_without_an_end_is_not_read_to_be_named(scripted, remote):
    index = Blob(manifest.INDEX_TYPE, X.digest, 1)
    scripted.state["script"][f"/v2/demo/manifests/{X.digest}"] = (200, b" " * (5 << 20), {})

    with pytest.raises(RegistryError, match="with more than 4194304 bytes"):
        remote.name("demo:1.0.0", index, "x")


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ({"Location": "/up", "OCI-Chunk-Min-Length": str(1 << 40)}, "wants chunks of 1099511627776 bytes"),
        ({"Location": "http://x:y/"}, "an address that is none"),
        ({}, "does not say where an upload goes on"),
        ({"Location": "/up", "OCI-Chunk-Min-Length": "\xb2"}, "does not take"),
    ],
)
def test_an_upload_goes_only_where_it_can(scripted, remote, headers, says):
    scripted.state["script"]["/v2/demo/blobs/uploads/"] = (202, b"", headers)
    data, blob = large()

    with pytest.raises(RegistryError, match=says):
        remote.send(blob, lambda start: iter([data[start:]]))
