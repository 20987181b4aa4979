"""The one door to the network, through real sshd devices on loopback."""

import hashlib
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from threading import Thread

import paramiko
import pytest

from slmops.errors import DeviceError, DocumentError, HostKeyError, SlmopsError, UnreachableError
from slmops.fleet import address, known_hosts
from slmops.fleet.ssh import PIECE, Link, shown_key


@pytest.fixture(scope="module")
def link(devices):
    """A connection to edge-1 that the tests share."""
    with Link(devices[0], ()) as there:
        yield there


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """A key that no device knows."""
    path = tmp_path_factory.mktemp("stranger") / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path


def heard(link, command, feed=(), **how):
    lines = []
    return link.run(command, feed, lines.append, **how), lines


def endless():
    while True:
        yield bytes(1 << 16)


def refused(device, trusted=()):
    with pytest.raises(UnreachableError) as told, Link(device, trusted):
        pass
    return told.value


def test_a_command_says_its_exit_code_and_its_lines(link):
    done, lines = heard(link, "echo one; echo two; printf three; exit 3")

    assert done.code == 3
    assert lines == ["one", "two", "three"]
    assert done.tail == "one\ntwo\nthree"


def test_a_command_that_has_said_its_last_and_does_not_end_is_given_up(link):
    with pytest.raises(UnreachableError, match="did not end within 1 s"):
        heard(link, "exec >&- 2>&-; sleep 60", silence=1.0)


def test_complaints_are_heard_too(link):
    done, lines = heard(link, "echo it broke >&2; exit 1")

    assert (done.code, done.tail, lines) == (1, "it broke", [])


def test_a_complaint_in_the_middle_of_a_line_does_not_break_it(link):
    _, lines = heard(link, "printf one-; sleep 0.1; echo noise >&2; sleep 0.1; echo half")

    assert lines == ["one-half"]


def test_a_quiet_command_says_nothing(link):
    done, lines = heard(link, "true")

    assert (done.code, done.tail, lines) == (0, "", [])


def test_one_connection_runs_many_commands(link):
    assert [link.run(f"exit {code}").code for code in range(5)] == list(range(5))


def test_eight_mebibytes_arrive_whole(link):
    data = bytes(range(256)) * (8 << 12)
    done, lines = heard(link, "sha256sum", [data[:5], data[5:]])

    assert done.code == 0
    assert lines == [f"{hashlib.sha256(data).hexdigest()}  -"]


def test_eight_mebibytes_come_back_whole(link):
    done, lines = heard(link, "head -c 8388608 /dev/zero | tr '\\0' x | fold -w 65536")

    assert done.code == 0
    assert lines == ["x" * 65536] * 128
    assert len(done.tail) <= 2000


def test_a_command_that_ends_while_it_is_fed_ends_with_its_own_exit_code(link):
    assert link.run("head -c 1 > /dev/null; sleep 0.2; exit 90", [bytes(8 << 20)]).code == 90


def test_letters_of_several_bytes_come_whole(link):
    _, lines = heard(link, "cat", [b"x", ("é" * 100_000).encode()])

    assert lines == ["x" + "é" * 100_000]


def test_bytes_that_are_no_text_are_shown_as_such(link):
    done, lines = heard(link, "printf 'a\\377b\\n'")

    assert (done.code, lines) == (0, ["a\ufffdb"])


def test_a_device_that_says_nothing_for_too_long_is_unreachable(devices):
    with Link(devices[0], ()) as link, pytest.raises(UnreachableError, match="edge-1 is unreachable: "):
        link.run("sleep 1", silence=0.05)


def test_a_device_that_goes_away_while_it_works_is_unreachable(devices):
    with Link(devices[0], ()) as link, pytest.raises(UnreachableError, match="edge-1 is unreachable: "):
        link.run("head -c 1; kill -9 $PPID; cat", endless())


def test_a_device_that_goes_away_while_we_listen_is_unreachable(devices):
    with Link(devices[0], ()) as link, pytest.raises(UnreachableError, match="edge-1 is unreachable: "):
        link.run("kill -9 $PPID; sleep 1")


def test_a_closed_link_runs_nothing(devices):
    with Link(devices[0], ()) as link:
        pass
    with pytest.raises(UnreachableError, match="edge-1 is unreachable: "):
        link.run("true")


def test_an_unknown_host_key_is_refused_with_its_fingerprint_and_the_next_command(devices):
    device = replace(devices[0], known_hosts=None)
    error = refused(device)

    assert isinstance(error, HostKeyError)
    assert f"the host key of [127.0.0.1]:{device.port} is unknown" in str(error)
    assert known_hosts.fingerprint(shown_key(device, ())) in str(error)
    assert f"slmops device trust [127.0.0.1]:{device.port}" in error.remedy


def test_a_key_trusted_for_another_device_is_not_trusted_here(devices, tmp_path):
    known_hosts.trust(
        tmp_path / "known_hosts", known_hosts.name_of("127.0.0.1", 1), shown_key(devices[0], ())
    )

    assert isinstance(refused(replace(devices[0], known_hosts=str(tmp_path / "known_hosts"))), HostKeyError)


def test_a_changed_host_key_is_refused_naming_both(devices, stranger, tmp_path):
    key = paramiko.PKey.from_path(stranger)
    name = known_hosts.name_of("127.0.0.1", devices[0].port)
    known_hosts.trust(tmp_path / "known_hosts", name, key)

    error = refused(replace(devices[0], known_hosts=None), (tmp_path / "known_hosts",))

    assert isinstance(error, HostKeyError)
    assert f"the host key of {name} has changed" in str(error)
    assert known_hosts.fingerprint(key) in str(error)
    assert known_hosts.fingerprint(shown_key(devices[0], ())) in str(error)


def test_a_key_that_was_shown_and_trusted_lets_us_in(devices, tmp_path):
    device = replace(devices[0], known_hosts=None)
    name = known_hosts.name_of(device.host, device.port)
    known_hosts.trust(tmp_path / "known_hosts", name, shown_key(device, ()))

    with Link(device, (tmp_path / "known_hosts",)) as link:
        assert link.run("true").code == 0


def test_the_key_shown_is_the_devices_own(devices):
    own = (Path(devices[0].identity).parent / "edge-1" / "host_key.pub").read_text().split()[1]

    assert shown_key(devices[0], ()).get_base64() == own


def test_a_closed_port_is_unreachable_and_says_what_to_try(devices):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    device = replace(devices[0], port=port)
    error = refused(device)

    assert f"edge-1 is unreachable: 127.0.0.1:{port}: Connection refused" in str(error)
    assert f" -p {port} " in error.remedy
    with pytest.raises(UnreachableError, match="edge-1 is unreachable"):
        shown_key(device, ())


def test_a_host_that_is_no_host_is_unreachable(devices):
    assert "no-such-host.invalid:" in str(refused(replace(devices[0], host="no-such-host.invalid")))


def test_something_that_is_no_sshd_is_unreachable(devices):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        device = replace(devices[0], port=port, connect_timeout=0.2)

        assert "edge-1 is unreachable: " in str(refused(device))
        with pytest.raises(UnreachableError, match="edge-1 is unreachable"):
            shown_key(device, ())


def test_a_key_the_device_does_not_know_is_refused_saying_so(devices, stranger):
    error = refused(replace(devices[0], identity=str(stranger)))

    assert f"edge-1: {devices[0].user}@127.0.0.1:{devices[0].port} does not accept our keys" in str(error)
    assert "identity" in error.remedy


def test_a_user_the_device_does_not_know_is_refused_saying_so(devices):
    assert "nobody-here@127.0.0.1" in str(refused(replace(devices[0], user="nobody-here")))


def test_a_key_file_that_is_not_there_is_named(devices, tmp_path):
    missing = str(tmp_path / "id")

    with pytest.raises(DocumentError, match=missing) as told, Link(replace(devices[0], identity=missing), ()):
        pass

    assert "`identity` in the fleet file" in told.value.remedy


def test_a_key_that_needs_a_passphrase_is_called_that(devices, tmp_path):
    words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", str(tmp_path / "id")]
    subprocess.run(words, check=True)

    assert "passphrase" in str(refused(replace(devices[0], identity=str(tmp_path / "id"))))


def test_a_device_behind_another_is_reached_through_it(devices, homes):
    inner, gate = devices
    through = replace(inner, jump=f"{gate.user}@127.0.0.1:{gate.port}")

    with Link(through, ()) as link:
        _, lines = heard(link, "echo $HOME; echo $SSH_CONNECTION")

    assert lines[0] == str(homes["edge-1"])
    assert f"Accepted publickey for {gate.user}" in (homes["edge-2"].parent / "sshd.log").read_text()


def test_a_jump_host_that_is_away_is_named(devices):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

    assert f"127.0.0.1:{port}: Connection refused" in str(
        refused(replace(devices[0], jump=f"127.0.0.1:{port}"))
    )


def test_a_device_that_its_jump_host_cannot_reach_is_named(devices):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    jump = f"127.0.0.1:{devices[1].port}"

    assert f"edge-1 is unreachable: {jump} is unreachable: no way on to " in str(
        refused(replace(devices[0], port=port, jump=jump))
    )


def test_an_unknown_jump_host_is_refused_though_the_device_is_known(devices, tmp_path):
    inner, gate = devices
    known_hosts.trust(
        tmp_path / "known_hosts", known_hosts.name_of(inner.host, inner.port), shown_key(inner, ())
    )
    through = replace(inner, known_hosts=str(tmp_path / "known_hosts"), jump=f"127.0.0.1:{gate.port}")

    error = refused(through)

    assert isinstance(error, HostKeyError)
    assert f"[127.0.0.1]:{gate.port} is unknown" in str(error)


def test_an_unknown_device_is_refused_though_its_jump_host_is_known(devices, tmp_path):
    inner, gate = devices
    known_hosts.trust(
        tmp_path / "known_hosts", known_hosts.name_of(gate.host, gate.port), shown_key(gate, ())
    )
    through = replace(inner, known_hosts=str(tmp_path / "known_hosts"), jump=f"127.0.0.1:{gate.port}")

    assert f"[127.0.0.1]:{inner.port} is unknown" in str(refused(through))


@pytest.mark.parametrize(
    ("said", "parts"),
    [
        ("a.lan", (None, "a.lan", 22)),
        ("a.lan:2222", (None, "a.lan", 2222)),
        ("me@a.lan", ("me", "a.lan", 22)),
        ("me@a.lan:2222", ("me", "a.lan", 2222)),
        ("me@work@a.lan", ("me@work", "a.lan", 22)),
        ("::1", (None, "::1", 22)),
        ("[::1]", (None, "::1", 22)),
        ("me@[fe80::1]:2222", ("me", "fe80::1", 2222)),
    ],
)
def test_a_host_is_read_as_ssh_reads_it(said, parts):
    assert address.parse(said) == parts


@pytest.mark.parametrize("said", ["a.lan:ssh", "a.lan:", "[::1]:x"])
def test_a_port_that_is_no_number_is_refused(said):
    with pytest.raises(SlmopsError, match="port"):
        address.parse(said)


@pytest.mark.parametrize("said", ["", "me@", ":22", "[::1", "a.lan:70000"])
def test_what_is_no_host_is_refused(said):
    with pytest.raises((SlmopsError, ValueError)):
        address.parse(said)


def test_a_callback_that_breaks_is_not_a_link_that_broke(link):
    def breaks(_line):
        raise BrokenPipeError("the reader has gone")

    with pytest.raises(BrokenPipeError, match="the reader has gone"):
        link.run("echo one", on_line=breaks)


def test_a_file_that_cannot_be_read_is_not_a_link_that_broke(link):
    def feed():
        yield b"begun"
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        link.run("cat", feed())


def test_a_link_on_which_nothing_moves_is_given_up_while_it_is_read(there):
    device, way = there()

    with Link(device, (), stall=0.3) as link, link.open("cat") as stream:
        way.stalled = True
        with pytest.raises(UnreachableError, match="nothing moved for"):
            stream.line()


def test_a_link_on_which_nothing_moves_is_given_up_while_it_is_written(there):
    device, way = there()

    with Link(device, (), stall=0.3) as link, link.open("sleep 60") as stream:
        way.stalled = True
        with pytest.raises(UnreachableError, match="nothing moved for"):
            stream.write(bytes(16 << 20))


def test_a_device_that_thinks_for_longer_than_a_stall_is_waited_for(devices):
    with Link(devices[0], (), stall=3.0) as link:
        _, lines = heard(link, "sleep 4; echo done")

    assert lines == ["done"]


def test_a_command_that_reads_slowly_is_waited_for(devices):
    with Link(devices[0], (), stall=3.0) as link:
        done, lines = heard(link, "sleep 4; wc -c", [bytes(5 << 20)])

    assert (done.code, [line.strip() for line in lines]) == (0, [str(5 << 20)])


def test_a_device_of_little_bandwidth_is_sent_no_more_than_it_bears(devices):
    slow = replace(devices[0], bandwidth=400_000)
    with Link(slow, ()) as link:
        began = time.monotonic()
        _, lines = heard(link, "wc -c", [bytes(200_000)])
        took = time.monotonic() - began

    assert lines[0].strip() == "200000"
    # The last piece is not waited for: nothing follows it.
    assert took >= (200_000 - PIECE) / 400_000


def test_a_link_encrypts_and_authenticates_in_one_pass(link):
    assert "gcm" in link._transport().local_cipher


def test_a_line_without_end_is_refused_not_kept(link):
    with pytest.raises(DeviceError, match="a line of more than 32 MiB"):
        link.run("tr '\\0' x < /dev/zero")


def close_one(server):
    server.accept()[0].close()


@pytest.mark.parametrize("verb", ["status", "device trust --fleet"])
def test_a_server_that_closes_at_once_is_told_of_in_our_words_alone(devices, tmp_path, verb):
    with socket.create_server(("127.0.0.1", 0)) as server:
        Thread(target=close_one, args=(server,), daemon=True).start()
        fleet = tmp_path / "fleet.yaml"
        fleet.write_text(
            f"name: plant\ndefaults: {{identity: {devices[0].identity}}}\n"
            f"devices: [{{name: edge-1, host: 127.0.0.1, port: {server.getsockname()[1]}}}]\n"
        )
        words = [sys.executable, "-m", "slmops", *verb.split(), str(fleet)]
        home = {**os.environ, "SLMOPS_HOME": str(tmp_path / "home")}
        done = subprocess.run(words, env=home, capture_output=True, text=True, check=False)

    assert done.returncode == UnreachableError.exit_code
    assert "edge-1 is unreachable" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_a_key_pinned_in_the_fleets_own_file_is_never_overridden(devices, stranger, tmp_path):
    device, pinned = devices[0], tmp_path / "pinned"
    name = known_hosts.name_of(device.host, device.port)
    known_hosts.trust(pinned, name, paramiko.PKey.from_path(stranger))
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text(
        "name: plant\ndefaults: {known_hosts: pinned}\n"
        f"devices: [{{name: edge-1, host: {device.host}, port: {device.port}}}]\n"
    )
    words = [sys.executable, "-m", "slmops", "device", "trust", "edge-1", "-f", str(fleet), "--yes"]
    home = {**os.environ, "SLMOPS_HOME": str(tmp_path / "home")}

    done = subprocess.run(words, env=home, capture_output=True, text=True, check=False)

    assert done.returncode == HostKeyError.exit_code
    assert str(pinned) in done.stderr
    assert not (tmp_path / "home" / "known_hosts").exists()
