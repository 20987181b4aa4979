"""Who is let in, and who is not."""

import asyncio
import contextlib
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops import keep_keys
from slmops.daemon.admit import ANYONE, ATTEMPTS, NOBODY, PEERS, STRANGER, Admission, Caller, Door, needed
from slmops.daemon.refusal import RefusedError
from slmops.errors import UsageError


@pytest.fixture
def file(tmp_path):
    return tmp_path / "keys.json"


@pytest.fixture
def key(file):
    return keep_keys.create(file, "app", "infer")[1]


def refused(door, headers=None, *, local=True, peer="10.0.0.9"):
    with pytest.raises(RefusedError) as caught:
        door.who(headers or {}, local=local, peer=peer)
    return caught.value.status, caught.value.reason


def bearer(key):
    return {"authorization": f"Bearer {key}"}


def test_without_keys_this_machine_is_served_and_no_other(file):
    door = Door(file)

    assert door.who({}, local=True) == NOBODY
    assert refused(door, local=False) == (401, "key_needed")
    assert NOBODY.may("infer")
    assert NOBODY.may("metrics")
    assert not NOBODY.may("operator")


def test_with_keys_nobody_comes_in_without_one(file, key):
    door = Door(file)

    assert door.who(bearer(key), local=False) == Caller("app", "infer")
    assert door.who({"authorization": f"bearer  {key} "}, local=True).name == "app"
    for headers in (
        {},
        {"authorization": key},
        {"authorization": f"Basic {key}"},
        {"authorization": "Bearer"},
    ):
        assert refused(door, headers) == (401, "key_needed")
    assert refused(door, bearer(f"{key}x")) == (401, "key_refused")


@pytest.mark.parametrize(
    ("role", "may"),
    [
        ("infer", {"infer"}),
        ("metrics", {"metrics"}),
        ("operator", {"infer", "metrics", "operator"}),
        ("admin", {"infer", "metrics", "operator", "admin"}),
        (ANYONE, {"infer", "metrics"}),
    ],
)
def test_a_role_may_what_it_is_for(role, may):
    door, caller = Door(), Caller("who", role)

    for wanted in ("infer", "metrics", "operator", "admin"):
        if wanted in may:
            door.allow(caller, wanted)
        else:
            with pytest.raises(RefusedError, match=wanted) as caught:
                door.allow(caller, wanted)
            assert caught.value.status == 403


def test_who_has_no_key_where_there_are_none_hears_of_the_admin_socket():
    with pytest.raises(RefusedError, match="--admin"):
        Door().allow(NOBODY, "operator")


@pytest.mark.parametrize(
    ("request_line", "role"),
    [
        ("GET /healthz", None),
        ("GET /readyz", "infer"),
        ("POST /v1/chat/completions", "infer"),
        ("GET /anything/else", "infer"),
        ("GET /metrics", "metrics"),
        ("GET /admin/v1/status", "operator"),
        ("POST /admin/v1/status", "admin"),
        ("POST /admin/v1/rollback", "operator"),
        ("POST /admin/v1/traffic", "operator"),
        ("POST /admin/v1/load", "admin"),
        ("POST /admin/v1/gate", "admin"),
        ("POST /admin/v1/drain", "admin"),
        ("DELETE /admin", "admin"),
    ],
)
def test_every_path_takes_a_role(request_line, role):
    assert needed(*request_line.split()) == role


def test_a_revoked_key_and_a_new_one_count_from_the_next_request(file, key):
    door = Door(file)

    other = keep_keys.create(file, "other", "admin")[1]
    assert door.who(bearer(other), local=False).role == "admin"
    keep_keys.revoke(file, "app")
    assert refused(door, bearer(key)) == (401, "key_refused")


@pytest.mark.parametrize("breaking", ["torn", "gone", "open to others", "empty"])
def test_a_file_that_is_broken_or_gone_lets_nobody_in(file, key, breaking, caplog):
    door = Door(file)
    whole = file.read_bytes()
    if breaking == "gone":
        file.unlink()
    elif breaking == "open to others":
        file.chmod(0o666)
    else:
        file.write_bytes(whole[: len(whole) // 2] if breaking == "torn" else b"")

    # Nobody's key is wrong, and nobody waits because of it.
    for _ in range(ATTEMPTS + 2):
        assert refused(door, bearer(key)) == (503, "keys_broken")
    assert refused(door, {}) == (401, "key_needed")
    assert ask(door, path="/readyz", headers=bearer(key))[0::2] == (200, [STRANGER])
    assert "nobody is let in" in caplog.text

    file.write_bytes(whole)
    file.chmod(0o600)
    assert door.who(bearer(key), local=False).name == "app"


def test_a_file_that_was_broken_from_the_beginning_lets_nobody_in(file):
    file.write_bytes(b"{")

    assert refused(Door(file)) == (401, "key_needed")


def test_who_says_wrong_keys_waits_and_others_do_not(file, key):
    door = Door(file)

    said = [refused(door, bearer("slm_00_no"))[0] for _ in range(ATTEMPTS + 2)]

    assert said == [401] * ATTEMPTS + [429] * 2
    assert door.failures == ATTEMPTS + 2
    assert refused(door, bearer("slm_00_no"), peer="10.0.0.10") == (401, "key_refused")
    assert door.who(bearer(key), local=False, peer="10.0.0.9").name == "app"


@pytest.mark.usefixtures("key")
def test_what_is_remembered_of_peers_is_bounded(file):
    door = Door(file)

    for number in range(PEERS + 10):
        with contextlib.suppress(RefusedError):
            door.who(bearer("slm_00_no"), local=False, peer=str(number))

    assert len(door._attempts) == PEERS


def test_no_key_stands_in_a_log(file, key, caplog):
    caplog.set_level("DEBUG")
    door = Door(file)

    door.who(bearer(key), local=False)
    refused(door, bearer(f"{key}x"))

    assert key.split("_", 2)[2] not in caplog.text
    assert "10.0.0.9" in caplog.text


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:11435", "127.0.0.1:1", "[::1]:80", "[::1]", "a.localhost.", ""]
)
def test_a_host_that_is_this_machine_is_answered(host):
    assert Door().who({"host": host}, local=True) == NOBODY


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example:80", "10.0.0.1", "localhost.evil", "[::2]"]
)
def test_a_name_that_was_made_to_point_here_is_not(host, file, key):
    assert refused(Door(), {"host": host}) == (403, "host_refused")
    assert Door(file).who({"host": host, **bearer(key)}, local=False).name == "app"


def test_a_web_page_is_refused_unless_its_origin_was_named():
    door = Door(cors=["https://app.example"])

    assert refused(Door(), {"origin": "https://app.example"}) == (403, "origin_refused")
    assert refused(door, {"origin": "https://evil.example"}) == (403, "origin_refused")
    assert refused(door, {"origin": "null"}) == (403, "origin_refused")
    assert refused(door, {"sec-fetch-site": "cross-site"}) == (403, "origin_refused")
    assert door.who({"origin": "https://app.example", "sec-fetch-site": "cross-site"}, local=True) == NOBODY
    assert door.who({"sec-fetch-site": "none"}, local=True) == NOBODY


@pytest.mark.parametrize("wrong", ["*", "null", "app.example", "https://a/b", "https://*.example"])
def test_an_origin_is_named_whole(wrong):
    with pytest.raises(UsageError, match="origin"):
        Door(cors=[wrong])


@given(
    st.dictionaries(
        st.sampled_from(["authorization", "host", "origin", "sec-fetch-site", "content-type"]),
        st.text(max_size=40)
        | st.sampled_from(["Bearer slm_", "Bearer slm__", "[::1%lo]:", "localhost:x", "::"]),
    ),
    st.booleans(),
)
def test_no_headers_make_the_door_stumble_or_open(headers, local):
    with TemporaryDirectory() as folder:
        file = Path(folder, "keys.json")
        with contextlib.suppress(RefusedError):
            assert Door(file).who(headers, local=local) == NOBODY
            assert local
        keep_keys.create(file, "app", "infer")
        with pytest.raises(RefusedError):
            Door(file).who(headers, local=local)


def ask(door, method="GET", path="/v1/models", headers=None, **scope):
    """Send one request through the door; return (status, headers, who the application saw)."""
    seen, sent = [], []

    async def app(scope, _receive, send):
        seen.append(scope["state"]["caller"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    async def send(message):
        sent.append(message)

    raw = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    whole = {
        "type": "http",
        "method": method,
        "path": path,
        "headers": raw,
        "client": ("127.0.0.1", 5),
    } | scope
    asyncio.run(Admission(app, door)(whole, None, send))
    told = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], told, seen


def test_what_is_not_admitted_does_not_reach_the_application(file, key):
    door = Door(file)

    status, headers, seen = ask(door)
    assert (status, headers["www-authenticate"], seen) == (401, 'Bearer realm="slmops"', [])
    assert ask(door, headers=bearer(key))[0::2] == (200, [Caller("app", "infer")])
    assert ask(door, path="/metrics", headers=bearer(key))[0] == 403
    assert ask(door, path="/healthz")[0] == 200
    assert ask(door, path="/readyz")[0::2] == (200, [STRANGER])
    assert not any(STRANGER.may(role) for role in ("infer", "metrics", "operator", "admin"))
    assert ask(door, path="/readyz", headers=bearer(key))[2] == [Caller("app", "infer")]
    assert ask(door, path="/readyz", headers=bearer("slm_00_no"))[0] == 401
    watch = keep_keys.create(file, "watch", "metrics")[1]
    assert ask(door, path="/readyz", headers=bearer(watch))[0] == 200
    for _ in range(ATTEMPTS):
        ask(door, headers=bearer("slm_00_no"))
    status, headers, _ = ask(door, headers=bearer("slm_00_no"))
    assert (status, 0 < int(headers["retry-after"]) <= 61) == (429, True)


@pytest.mark.parametrize(
    ("scope", "status"),
    [
        ({}, 200),
        ({"client": ("::1", 5)}, 200),
        ({"client": ("::ffff:127.0.0.1", 5)}, 200),
        ({"client": None, "state": {"via": "unix"}}, 200),
        ({"client": None}, 401),
        ({"client": ("192.0.2.1", 5)}, 401),
        ({"client": ("192.0.2.1", 5), "state": {"via": "tcp"}}, 401),
    ],
)
def test_where_a_request_comes_from_decides_where_there_are_no_keys(scope, status):
    assert ask(Door(), **scope)[0] == status


@pytest.mark.usefixtures("key")
def test_through_the_admin_socket_comes_an_admin_whatever_keys_there_are(file):
    scope = {"client": None, "state": {"via": "admin"}}

    status, _, seen = ask(Door(file), "POST", "/admin/v1/load", **scope)

    assert (status, seen[0].role) == (200, "admin")
    assert ask(Door(), "POST", "/admin/v1/load")[0] == 403
    assert ask(Door(), "POST", "/admin/v1/load", {"origin": "https://a.example"}, **scope)[0] == 403


def test_browsers_hear_of_origins_only_where_one_was_named():
    door, origin = Door(cors=["https://app.example"]), {"origin": "https://app.example"}
    asking = {"access-control-request-method": "POST"}

    status, headers, seen = ask(door, "OPTIONS", headers=origin | asking)
    assert (status, seen, headers["access-control-allow-origin"]) == (204, [], "https://app.example")
    # OpenAI's client in a browser sends a dozen headers of its own.
    assert headers["access-control-allow-headers"] == "authorization, *"
    assert ask(door, headers=origin)[1]["access-control-allow-origin"] == "https://app.example"
    assert ask(door)[1] == {}
    assert ask(door, "OPTIONS", headers={"origin": "https://evil.example"} | asking)[0] == 403
    status, headers, _ = ask(Door(), "OPTIONS", headers=origin | asking)
    assert (status, [name for name in headers if name.startswith("access-control")]) == (403, [])
