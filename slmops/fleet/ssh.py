"""The one door to the network: a connection to a device, and commands run over it."""

import getpass
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import paramiko

from slmops.errors import HostKeyError, UnreachableError
from slmops.fleet import known_hosts
from slmops.fleet.inventory import Device

PIECE = 1 << 15
WINDOW = 4 << 20
SILENCE_MS = 30_000
"""A link that acknowledges nothing for this long is cut (TCP_USER_TIMEOUT); else a write hangs."""


@dataclass(frozen=True)
class Finished:
    """How a remote command ended: its exit code and the last of what it printed."""

    code: int
    tail: str


class _Refuse(paramiko.MissingHostKeyPolicy):
    def missing_host_key(self, _client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        raise known_hosts.unknown(hostname, known_hosts.fingerprint(key))


class Link:
    """An SSH connection to one device; host keys are checked strictly. Use it in a `with`."""

    def __init__(self, device: Device, trusted: tuple[Path, ...]) -> None:
        """Connect; `trusted` are known_hosts files. Raise UnreachableError, or HostKeyError."""
        self.device = device
        self._clients: list[paramiko.SSHClient] = []
        extra = (Path(device.known_hosts),) if device.known_hosts else ()
        self._keys = known_hosts.read((*extra, *trusted))
        try:
            self._client = self._connect()
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
        for client in reversed(self._clients):
            client.close()

    def run(
        self,
        command: str,
        feed: Iterable[bytes] = (),
        on_line: Callable[[str], None] = lambda line: None,
        silence: float = 60.0,
    ) -> Finished:
        """Run a command: write `feed` to it, call `on_line` for every line it prints (both streams).

        `silence` is how many seconds it may say nothing. Raise UnreachableError when the link breaks.
        """
        try:
            transport = self._client.get_transport()
            if transport is None:
                raise self._lost("the connection is closed")
            channel = transport.open_session(window_size=WINDOW, timeout=self.device.connect_timeout)
            channel.settimeout(silence)
            channel.set_combine_stderr(combine=True)
            channel.exec_command(command)
            self._feed(channel, feed)
            tail = _lines(channel, on_line)
            return Finished(code=channel.recv_exit_status(), tail=tail)
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise self._lost(str(error) or type(error).__name__) from error

    def _feed(self, channel: paramiko.Channel, feed: Iterable[bytes]) -> None:
        """Write in small pieces: one huge buffer is slow (paramiko copies what is left at each send)."""
        with suppress(BrokenPipeError):
            for piece in feed:
                view = memoryview(piece)
                for start in range(0, len(view), PIECE):
                    if channel.closed or channel.exit_status_ready():
                        return
                    channel.sendall(bytes(view[start : start + PIECE]))
            channel.shutdown_write()

    def _connect(self) -> paramiko.SSHClient:
        device = self.device
        through = None
        if device.jump:
            user, host, port = split(device.jump)
            gate = self._open(host, port, user, self._socket(host, port))
            transport = gate.get_transport()
            if transport is None:
                raise self._lost(f"{device.jump} closed the connection")
            try:
                through = transport.open_channel(
                    "direct-tcpip",
                    (device.host, device.port),
                    ("127.0.0.1", 0),
                    timeout=device.connect_timeout,
                )
            except (paramiko.SSHException, OSError) as error:
                raise self._lost(f"{device.jump} cannot reach it: {error}") from error
        return self._open(
            device.host, device.port, device.user, through or self._socket(device.host, device.port)
        )

    def _socket(self, host: str, port: int) -> socket.socket:
        try:
            plain = socket.create_connection((host, port), timeout=self.device.connect_timeout)
        except OSError as error:
            raise self._lost(f"{host}:{port}: {error.strerror or error}") from error
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE_MS)
        return plain

    def _open(
        self, host: str, port: int, user: str | None, through: socket.socket | paramiko.Channel
    ) -> paramiko.SSHClient:
        client = paramiko.SSHClient()
        self._clients.append(client)
        name = known_hosts.name_of(host, port)
        for kind, key in (self._keys.lookup(name) or {}).items():
            client.get_host_keys().add(name, kind, key)
        client.set_missing_host_key_policy(_Refuse())
        seconds = self.device.connect_timeout
        try:
            client.connect(
                host,
                port,
                username=user or getpass.getuser(),
                key_filename=self.device.identity,
                look_for_keys=self.device.identity is None,
                sock=through,
                timeout=seconds,
                banner_timeout=seconds,
                auth_timeout=seconds,
            )
        except paramiko.BadHostKeyException as error:
            shown, known = known_hosts.fingerprint(error.key), known_hosts.fingerprint(error.expected_key)
            raise known_hosts.changed(name, shown, known) from error
        except HostKeyError:
            raise
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise self._refused(user, error) from error
        transport = client.get_transport()
        if transport is not None:
            transport.set_keepalive(15)
        return client

    def _refused(self, user: str | None, error: Exception) -> UnreachableError:
        if isinstance(error, paramiko.AuthenticationException):
            who = user or getpass.getuser()
            return UnreachableError(
                f"{self.device.name}: {who}@{self.device.host}:{self.device.port} does not accept our keys",
                remedy="Set `identity` in the fleet file, or add the key to ssh-agent and the device.",
            )
        return self._lost(str(error) or type(error).__name__)

    def _lost(self, why: str) -> UnreachableError:
        device = self.device
        return UnreachableError(
            f"{device.name} is unreachable: {why}",
            remedy=f"Try `ssh -p {device.port} {device.user or getpass.getuser()}@{device.host}`.",
        )


def split(said: str) -> tuple[str | None, str, int]:
    """Read `[user@]host[:port]`; an IPv6 address with a port stands in brackets."""
    user, at, rest = said.rpartition("@")
    host, port = rest, 22
    if rest.startswith("["):
        host, _, after = rest[1:].partition("]")
        port = int(after[1:]) if after.startswith(":") else 22
    elif rest.count(":") == 1:
        host, _, number = rest.partition(":")
        port = int(number)
    return (user if at else None), host, port


def shown_key(device: Device) -> paramiko.PKey:
    """Return the host key a device shows, without trusting it."""
    try:
        plain = socket.create_connection((device.host, device.port), timeout=device.connect_timeout)
        with paramiko.Transport(plain) as transport:
            transport.start_client(timeout=device.connect_timeout)
            return transport.get_remote_server_key()
    except (paramiko.SSHException, OSError, EOFError) as error:
        raise UnreachableError(f"{device.host}:{device.port} is unreachable: {error}") from error


def _lines(channel: paramiko.Channel, on_line: Callable[[str], None]) -> str:
    """Call `on_line` for each line until the command ends; return the last 2,000 characters."""
    tail, rest = "", ""
    while piece := channel.recv(PIECE):
        *whole, rest = (rest + piece.decode(errors="replace")).split("\n")
        for line in whole:
            on_line(line)
        tail = (tail + piece.decode(errors="replace"))[-2000:]
    if rest:
        on_line(rest)
    return tail
