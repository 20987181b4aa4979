"""The one door to the network: a connection to a device, and commands run over it."""

import codecs
import getpass
import shlex
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Self

import paramiko

from slmops.errors import HostKeyError, UnreachableError
from slmops.fleet import address, known_hosts
from slmops.fleet.inventory import Device

PIECE = 1 << 15
WINDOW = 4 << 20
TAIL_LINES, TAIL_CHARACTERS = 40, 2000
SILENCE_MS = 30_000
"""A link that acknowledges nothing for this long is cut (TCP_USER_TIMEOUT); else a write hangs."""


@dataclass(frozen=True)
class Finished:
    """How a remote command ended: its exit code and the last of what it printed."""

    code: int
    tail: str


class _OursError(Exception):
    """An OSError of the caller's own callback or file, on its way past those of the link."""


class _Refuse(paramiko.MissingHostKeyPolicy):
    def missing_host_key(self, _client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        raise known_hosts.unknown(hostname, known_hosts.fingerprint(key))


class Link:
    """An SSH connection to one device; host keys are checked strictly. Use it in a `with`."""

    def __init__(self, device: Device, trusted: tuple[Path, ...]) -> None:
        """Connect; `trusted` are known_hosts files. Raise UnreachableError, or HostKeyError."""
        self.device = device
        self._gate = _gate(device, trusted)
        self._client = paramiko.SSHClient()
        try:
            self._connect(trusted)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, t: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._client.close()
        if self._gate is not None:
            self._gate.close()

    def tunnel(self, host: str, port: int) -> paramiko.Channel:
        """Return a channel to `host:port` as this device reaches it."""
        try:
            return self._transport().open_channel(
                "direct-tcpip", (host, port), ("127.0.0.1", 0), timeout=self.device.connect_timeout
            )
        except (paramiko.SSHException, OSError) as error:
            raise self._lost(f"no way on to {host}:{port}: {error}") from error

    def run(
        self,
        command: str,
        feed: Iterable[bytes] = (),
        on_line: Callable[[str], None] = lambda line: None,
        silence: float = 60.0,
    ) -> Finished:
        """Run a command: write `feed` to it, call `on_line` for every line of its standard output.

        `silence` is how many seconds it may say nothing. Raise UnreachableError when the link breaks.
        """
        tail: deque[str] = deque(maxlen=TAIL_LINES)

        def hear(line: str) -> None:
            tail.append(line)
            try:
                on_line(line)
            except OSError as error:
                raise _OursError(error) from error

        try:
            transport = self._transport()
            channel = transport.open_session(window_size=WINDOW, timeout=self.device.connect_timeout)
            channel.settimeout(silence)
            channel.exec_command(command)
            errors = Thread(target=_cut_errors, args=(channel, tail.append), daemon=True)
            errors.start()
            _feed(channel, _ours(feed))
            _cut(channel.recv, hear)
            errors.join(self.device.connect_timeout)
            code = channel.recv_exit_status()
        except _OursError as error:
            raise error.args[0] from None
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise self._lost(str(error) or type(error).__name__) from error
        if code == -1 and not transport.is_active():
            raise self._lost("the connection broke")
        return Finished(code, "\n".join(tail)[-TAIL_CHARACTERS:])

    def _transport(self) -> paramiko.Transport:
        transport = self._client.get_transport()
        if transport is None:
            raise self._lost("the connection is closed")
        return transport

    def _connect(self, trusted: tuple[Path, ...]) -> None:
        device, client = self.device, self._client
        name = known_hosts.name_of(device.host, device.port)
        for kind, key in (known_hosts.read(_files(device, trusted)).lookup(name) or {}).items():
            client.get_host_keys().add(name, kind, key)
        client.set_missing_host_key_policy(_Refuse())
        try:
            client.connect(
                device.host,
                device.port,
                username=device.user or getpass.getuser(),
                key_filename=device.identity,
                look_for_keys=device.identity is None,
                sock=_way(device, self._gate),
                timeout=device.connect_timeout,
                banner_timeout=device.connect_timeout,
                auth_timeout=device.connect_timeout,
            )
        except paramiko.BadHostKeyException as error:
            shown, known = known_hosts.fingerprint(error.key), known_hosts.fingerprint(error.expected_key)
            raise known_hosts.changed(name, shown, known) from error
        except (HostKeyError, UnreachableError):
            raise
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise self._refused(error) from error
        self._transport().set_keepalive(15)

    def _refused(self, error: Exception) -> UnreachableError:
        device = self.device
        if isinstance(error, paramiko.PasswordRequiredException):
            return UnreachableError(
                f"{device.name}: the key {device.identity or 'in ~/.ssh'} needs a passphrase",
                remedy="Add it to ssh-agent: ssh-add KEY",
            )
        if isinstance(error, paramiko.AuthenticationException):
            who = device.user or getpass.getuser()
            return UnreachableError(
                f"{device.name}: {who}@{device.host}:{device.port} does not accept our keys",
                remedy="Set `identity` in the fleet file, or add the key to ssh-agent and the device.",
            )
        return self._lost(str(error) or type(error).__name__)

    def _lost(self, why: str) -> UnreachableError:
        return _unreachable(self.device, why)


def shown_key(device: Device, trusted: tuple[Path, ...]) -> paramiko.PKey:
    """Return the host key a device shows, without trusting it; its jump host must be trusted already."""
    gate = _gate(device, trusted)
    try:
        with paramiko.Transport(_way(device, gate)) as transport:
            transport.start_client(timeout=device.connect_timeout)
            return transport.get_remote_server_key()
    except (paramiko.SSHException, OSError, EOFError) as error:
        raise _unreachable(device, str(error)) from error
    finally:
        if gate is not None:
            gate.close()


def _gate(device: Device, trusted: tuple[Path, ...]) -> Link | None:
    if device.jump is None:
        return None
    user, host, port = address.parse(device.jump)
    gate = Device(
        name=device.jump, host=host, port=port, user=user, identity=device.identity,
        known_hosts=device.known_hosts, connect_timeout=device.connect_timeout,
    )  # fmt: skip
    return Link(gate, trusted)


def _files(device: Device, trusted: tuple[Path, ...]) -> tuple[Path, ...]:
    return (*((Path(device.known_hosts),) if device.known_hosts else ()), *trusted)


def _way(device: Device, gate: Link | None) -> socket.socket | paramiko.Channel:
    """Return what leads to the device's sshd: a socket, or a tunnel through its jump host."""
    if gate is None:
        return _socket(device)
    try:
        return gate.tunnel(device.host, device.port)
    except UnreachableError as error:
        raise _unreachable(device, str(error)) from error


def _socket(device: Device) -> socket.socket:
    try:
        plain = socket.create_connection((device.host, device.port), timeout=device.connect_timeout)
    except OSError as error:
        raise _unreachable(device, f"{device.host}:{device.port}: {error.strerror or error}") from error
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE_MS)
    return plain


def _unreachable(device: Device, why: str) -> UnreachableError:
    words = ["ssh", "-p", str(device.port), f"{device.user or getpass.getuser()}@{device.host}"]
    words[1:1] = [
        *(["-i", device.identity] if device.identity else []),
        *(["-J", device.jump] if device.jump else []),
    ]
    return UnreachableError(f"{device.name} is unreachable: {why}", remedy=f"Try `{shlex.join(words)}`.")


def _ours(feed: Iterable[bytes]) -> Iterator[bytes]:
    try:
        yield from feed
    except OSError as error:
        raise _OursError(error) from error


def _feed(channel: paramiko.Channel, feed: Iterable[bytes]) -> None:
    """Write in small pieces: one huge buffer is slow (paramiko copies what is left at each send).

    A command that ends before it has read all is not a broken link: its exit code says why.
    """
    try:
        for piece in feed:
            view = memoryview(piece)
            for start in range(0, len(view), PIECE):
                channel.sendall(bytes(view[start : start + PIECE]))
        channel.shutdown_write()
    except OSError:
        if not channel.closed:
            raise


def _cut(receive: Callable[[int], bytes], on_line: Callable[[str], None]) -> None:
    """Call `on_line` for each line until the stream ends."""
    decoder, rest = codecs.getincrementaldecoder("utf-8")("replace"), ""
    while piece := receive(PIECE):
        *whole, rest = (rest + decoder.decode(piece)).split("\n")
        for line in whole:
            on_line(line)
    rest += decoder.decode(b"", final=True)
    if rest:
        on_line(rest)


def _cut_errors(channel: paramiko.Channel, on_line: Callable[[str], None]) -> None:
    """Drain standard error beside standard output; its silence means nothing."""

    def receive(size: int) -> bytes:
        while True:
            with suppress(TimeoutError):
                return channel.recv_stderr(size)

    with suppress(OSError, EOFError):
        _cut(receive, on_line)
