"""Sockets: opened, handed over, and refused."""

import os
import socket
import subprocess
import sys

import pytest

from slmops import keep_keys
from slmops.daemon import listen
from slmops.errors import UsageError


@pytest.fixture
def doors():
    """Open doors as `gather` does, with no environment unless one is given; they are closed at the end."""
    opened = []

    def gather(host="127.0.0.1", port=0, **more):
        found = listen.gather(host, port, **{"environ": {}, **more})
        opened.extend(found)
        return found

    yield gather
    for each in opened:
        each.close()


def connects(listener):
    family = listener.sock.family
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.connect(listener.sock.getsockname())
        return True


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.9.1"])
def test_loopback_is_listened_on_without_keys(doors, host):
    (door,) = doors(host)

    assert connects(door)
    assert door.port
    assert door.name.endswith(f":{door.port}")


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_elsewhere_a_key_is_demanded(doors, host, tmp_path):
    file = tmp_path / "keys.json"

    with pytest.raises(UsageError, match="no keys"):
        doors(host)
    with pytest.raises(UsageError, match="no keys"):
        doors(host, keys_file=file)
    keep_keys.create(file, "app", "infer")
    assert connects(doors(host, keys_file=file)[0])
    file.write_bytes(b"{")
    with pytest.raises(UsageError, match="not a file of keys"):
        doors(host, keys_file=file)


def test_a_port_that_is_taken_is_an_error_in_words(doors):
    (door,) = doors()

    with pytest.raises(UsageError, match=f"port {door.port}"):
        doors(port=door.port)


@pytest.mark.parametrize("port", [-1, 65536, 99999])
def test_a_number_that_no_port_has_is_refused_in_words(doors, port):
    with pytest.raises(UsageError, match=f"{port} is no port"):
        doors(port=port)


def test_a_unix_socket_is_opened_besides_for_owner_and_group(doors, tmp_path):
    api, unix = doors(unix=tmp_path / "api.sock")

    assert [api.door, unix.door] == ["api", "api"]
    assert connects(unix)
    assert unix.path.stat().st_mode & 0o777 == 0o660
    unix.close()
    assert not unix.path.exists()


def test_an_admin_socket_is_its_owners_alone(doors, tmp_path):
    doors_found = doors(admin=tmp_path / "run" / "admin.sock")
    _, admin = doors_found

    assert admin.path.stat().st_mode & 0o777 == 0o600
    assert admin.path.parent.stat().st_mode & 0o777 == 0o700
    assert listen.admin_names(doors_found) == {str(admin.path)}


def test_an_admin_socket_is_not_opened_where_others_may_write(doors, tmp_path):
    tmp_path.chmod(0o770)

    with pytest.raises(UsageError, match="others may write"):
        doors(admin=tmp_path / "admin.sock")
    with pytest.raises(UsageError, match="no admin socket"):
        doors(admin=tmp_path / "no" / "such" / "admin.sock")


def test_a_socket_that_nobody_listens_on_is_replaced_and_another_is_not(doors, tmp_path):
    path = tmp_path / "api.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left:
        left.bind(str(path))

    _, first = doors(unix=path)
    with pytest.raises(UsageError, match="somebody else"):
        doors(unix=path)
    assert connects(first)


def test_what_is_no_socket_is_never_removed(doors, tmp_path):
    path = tmp_path / "file"
    path.write_text("precious")

    with pytest.raises(UsageError, match="no socket"):
        doors(unix=path)
    assert path.read_text() == "precious"


def test_a_socket_that_another_took_over_is_left_to_him(doors, tmp_path):
    path = tmp_path / "api.sock"
    _, first = doors(unix=path)
    path.unlink()
    _, second = doors(unix=path)

    first.close()

    assert connects(second)


def test_a_path_that_no_socket_may_have_is_refused_in_words(doors, tmp_path):
    path = tmp_path / ("x" * listen.LONGEST)

    with pytest.raises(UsageError, match="may have 107"):
        doors(unix=path)
    with pytest.raises(UsageError, match="cannot listen on"):
        doors(unix=tmp_path / "none" / "api.sock")


HANDED = """if True:
    import os, sys
    from pathlib import Path
    from slmops.daemon import listen
    if "pid" in sys.argv:
        os.environ["LISTEN_PID"] = str(os.getpid())
    for door in listen.gather("127.0.0.1", 0, admin=Path("/dev/null/run/admin.sock")):
        print(door.door, door.name, os.get_inheritable(door.sock.fileno()))
    print(sorted(name for name in os.environ if name.startswith("LISTEN")))
"""


def handed(sockets, words=(), **said):
    """Return what a process says to which these sockets are handed over."""

    def place():
        for number, sock in enumerate(sockets, 20):
            os.dup2(sock.fileno(), number)
        for number in range(len(sockets)):
            os.dup2(20 + number, listen.FIRST + number)

    process = subprocess.run(
        [sys.executable, "-c", HANDED, *words],
        preexec_fn=place,
        close_fds=False,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LISTEN_FDS": str(len(sockets)), **said},
    )
    return process.stdout.splitlines() or process.stderr.splitlines()[-1:]


@pytest.fixture
def sockets(tmp_path):
    with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as unix:
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        unix.bind(str(tmp_path / "admin.sock"))
        unix.listen()
        yield tcp, unix


@pytest.mark.parametrize("words", [(), ("pid",)])
def test_sockets_that_were_handed_over_are_taken_and_not_handed_on(sockets, words):
    tcp, unix = sockets

    said = handed([unix, tcp], words, LISTEN_FDNAMES="admin:anything")

    assert said == [
        f"api 127.0.0.1:{tcp.getsockname()[1]} False",
        f"admin {unix.getsockname()} False",
        "[]",
    ]


def test_sockets_that_were_meant_for_another_process_are_left_alone(sockets):
    assert "no admin socket" in handed(sockets, LISTEN_PID="1")[0]


def test_a_handed_over_socket_of_the_wrong_kind_is_refused(sockets):
    tcp, _ = sockets
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams, socket.socket() as far:
        far.bind(("0.0.0.0", 0))

        assert "not of the kind" in handed([tcp], LISTEN_FDNAMES="admin")[0]
        assert "not of the kind" in handed([datagrams])[0]
        assert "no admin socket" in handed([far])[0]


def test_a_handed_over_socket_that_others_reach_demands_keys(doors):
    with socket.socket() as far:
        far.bind(("0.0.0.0", 0))
        with pytest.raises(UsageError, match="no keys"):
            listen.refuse_open([listen.Listener("api", far)], None)
    with pytest.raises(UsageError, match="LISTEN_FDS"):
        doors(environ={"LISTEN_FDS": "many"})


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_the_other_end_of_a_unix_socket_is_known():
    here, there = socket.socketpair()
    os.seteuid(65534)
    try:
        strange, stranger = socket.socketpair()
    finally:
        os.seteuid(0)
    with here, there, strange, stranger:
        assert listen.is_owner(here)
        assert not listen.is_owner(strange)
