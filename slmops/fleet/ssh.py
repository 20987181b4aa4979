"""The one door to the network: a connection to a device, and commands run over it.

It does not know what the commands are. Laws: host keys are checked strictly; whatever waits ends, since a
link on which nothing moves is given up; a device is never sent more than its bandwidth.
"""

import codecs
import getpass
import logging
import shlex
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Any, Self

import paramiko

from slmops.errors import DeviceError, HostKeyError, UnreachableError
from slmops.fleet import address, known_hosts
from slmops.fleet.inventory import Device
from slmops.fleet.load import require_identity

# What breaks is raised as our own errors; paramiko would print its traceback beside them.
logging.getLogger("paramiko").setLevel(logging.CRITICAL + 1)

PIECE = (1 << 15) - 64
"""What fits into one packet: paramiko keeps 64 bytes of OpenSSH's 32 KiB for what goes around it."""
WINDOW = 4 << 20
LONGEST_LINE = 32 << 20
TAIL_LINES, TAIL_CHARACTERS = 40, 2000
SILENCE_MS = 20_000
"""A link that acknowledges nothing for this long is cut (TCP_USER_TIMEOUT); else a write hangs."""
STALL = 30.0
"""Seconds without a sign of life, of the command or of sshd itself, after which a link is given up."""


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

    def __init__(self, device: Device, trusted: tuple[Path, ...], *, stall: float = STALL) -> None:
        """Connect; `trusted` are known_hosts files. Raise UnreachableError, HostKeyError, DocumentError."""
        require_identity(device)
        self.device, self.stall = device, stall
        self._sent_until = 0.0
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
            raise self.lost(f"no way on to {host}:{port}: {error}") from error

    def run(
        self,
        command: str,
        feed: Iterable[bytes] = (),
        on_line: Callable[[str], None] = lambda line: None,
        silence: float = 60.0,
    ) -> Finished:
        """Run a command: write `feed` to it, call `on_line` for every line of its standard output.

        A command that ends before it has read all is not a broken link: its exit code says why. `silence` is
        how many seconds it may say nothing. Raise UnreachableError when the link breaks.
        """
        with self.open(command, silence) as stream:
            for piece in feed:
                if not stream.write(piece):
                    break
            stream.end()
            while (line := stream.line()) is not None:
                on_line(line)
            return stream.finish()

    def open(self, command: str, silence: float = 60.0) -> "Stream":
        """Run a command to speak with it; `silence` is how many seconds it may say, or take, nothing."""
        try:
            channel = self._transport().open_session(window_size=WINDOW, timeout=self.device.connect_timeout)
            channel.exec_command(command)
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise self.lost(str(error) or type(error).__name__) from error
        return Stream(self, channel, silence)

    def lives(self) -> bool:
        """Say whether the connection is there."""
        transport = self._client.get_transport()
        return transport is not None and transport.is_active()

    def wait_for_room(self, size: int) -> None:
        """Wait until `size` more bytes may be sent to a device that bears only so many a second."""
        if self.device.bandwidth is not None:
            now = time.monotonic()
            if self._sent_until > now:
                time.sleep(self._sent_until - now)
            self._sent_until = max(self._sent_until, now) + size / self.device.bandwidth

    def ask_for_life(self) -> Thread:
        """Ask sshd for an answer, whatever the command does; the thread ends when there was one."""
        ping = Thread(
            target=self._transport().global_request, args=("keepalive@openssh.com", None, True), daemon=True
        )
        ping.start()
        return ping

    def _transport(self) -> paramiko.Transport:
        transport = self._client.get_transport()
        if transport is None:
            raise self.lost("the connection is closed")
        return transport

    def _connect(self, trusted: tuple[Path, ...]) -> None:
        device, client = self.device, self._client
        name = known_hosts.name_of(device.host, device.port)
        files = known_hosts.files(device.known_hosts, trusted)
        for kind, key in (known_hosts.read(files).lookup(name) or {}).items():
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
                transport_factory=_quick,
            )
        except paramiko.BadHostKeyException as error:
            shown, known = known_hosts.fingerprint(error.key), known_hosts.fingerprint(error.expected_key)
            raise known_hosts.changed(name, shown, known) from error
        except (HostKeyError, UnreachableError):
            raise
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise self._refused(error) from error
        self._transport().set_keepalive(10)

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
        return self.lost(str(error) or type(error).__name__)

    def lost(self, why: str) -> UnreachableError:
        """Return the error that says this device cannot be reached any more."""
        return _unreachable(self.device, why)


class Stream:
    """A command that runs on a device: bytes go to it, lines come from it. Use it in a `with`."""

    def __init__(self, link: Link, channel: paramiko.Channel, silence: float) -> None:
        self._link, self._channel = link, channel
        self.bear(silence)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._lines: deque[str] = deque()
        self._begun: list[str] = []
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._errors = Thread(target=_cut_errors, args=(channel, self._tail.append), daemon=True)
        self._errors.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, t: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the command to itself."""
        with suppress(OSError, EOFError):
            self._channel.close()

    def bear(self, silence: float) -> None:
        """Set how many seconds the command may say, or take, nothing."""
        self._silence = silence
        self._channel.settimeout(min(silence, self._link.stall / 3))

    def write(self, piece: bytes | memoryview) -> bool:
        """Write bytes; return whether the command reads on."""
        most = min(PIECE, self._link.device.bandwidth or PIECE)
        view = memoryview(piece)
        while view:
            self._link.wait_for_room(min(len(view), most))
            sent = self._patiently(self._send, view[:most])
            if not sent:
                return False
            view = view[sent:]
        return True

    def end(self) -> None:
        """Tell the command that no more bytes come."""
        with suppress(OSError, EOFError):
            self._channel.shutdown_write()

    def says(self) -> bool:
        """Say whether something was heard that nobody has read yet."""
        return bool(self._lines) or self._channel.recv_ready()

    def line(self) -> str | None:
        """Return the next line of standard output, or None after the last."""
        while not self._lines:
            piece = self._patiently(self._channel.recv, PIECE)
            self._cut(self._decoder.decode(piece, final=not piece))
            if not piece:
                if not self._begun:
                    return None
                self._keep("".join(self._begun))
                self._begun.clear()
        return self._lines.popleft()

    def finish(self) -> Finished:
        """Wait for the command's end, and return how it ended; it said its last, and is soon over."""
        self._errors.join(self._link.device.connect_timeout)
        if not self._channel.status_event.wait(self._silence):
            raise self._link.lost(f"a command said its last and did not end within {self._silence:.0f} s")
        code = self._channel.recv_exit_status()
        if code == -1 and not self._link.lives():
            raise self._link.lost("the connection broke")
        return Finished(code, "\n".join(self._tail)[-TAIL_CHARACTERS:])

    def _cut(self, text: str) -> None:
        """Make lines of what comes; one that has no end is a device's mistake, and not kept."""
        *ends, rest = text.split("\n")
        for end in ends:
            self._keep("".join([*self._begun, end]))
            self._begun.clear()
        if rest:
            self._begun.append(rest)
        if len(self._begun) * PIECE > LONGEST_LINE:
            raise DeviceError(f"{self._link.device.name}: a line of more than {LONGEST_LINE >> 20} MiB")

    def _keep(self, line: str) -> None:
        self._lines.append(line)
        self._tail.append(line)

    def _send(self, view: memoryview) -> int:
        try:
            # Any buffer will do, whatever the stubs say.
            return self._channel.send(view)  # type: ignore[arg-type]
        except TimeoutError:
            raise
        except OSError:
            if self._channel.closed and self._link.lives():
                return 0
            raise

    def _patiently(self, act: Callable[[Any], Any], given: Any) -> Any:
        """Do what waits for the device: for `silence` seconds while sshd shows signs of life, else less."""
        began = heard = time.monotonic()
        ping: Thread | None = None
        while True:
            try:
                return act(given)
            except TimeoutError as error:
                now = time.monotonic()
                if ping is None:
                    ping = self._link.ask_for_life()
                elif not ping.is_alive():
                    heard, ping = now, None
                if now - began >= self._silence or now - heard >= self._link.stall:
                    raise self._link.lost(f"nothing moved for {now - began:.0f} s") from error
            except (paramiko.SSHException, OSError, EOFError) as error:
                raise self._link.lost(str(error) or type(error).__name__) from error


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
    # Else every question waits 40 ms for the acknowledgement of the one before.
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return plain


def _unreachable(device: Device, why: str) -> UnreachableError:
    words = ["ssh", "-p", str(device.port), f"{device.user or getpass.getuser()}@{device.host}"]
    words[1:1] = [
        *(["-i", device.identity] if device.identity else []),
        *(["-J", device.jump] if device.jump else []),
    ]
    return UnreachableError(f"{device.name} is unreachable: {why}", remedy=f"Try `{shlex.join(words)}`.")


def _quick(sock: Any, **how: Any) -> paramiko.Transport:
    """Return a transport that prefers the ciphers that encrypt and authenticate in one pass."""
    transport = paramiko.Transport(sock, **how)
    options = transport.get_security_options()
    options.ciphers = sorted(options.ciphers, key=lambda name: "gcm" not in name)
    return transport


def _cut_errors(channel: paramiko.Channel, on_line: Callable[[str], None]) -> None:
    """Drain standard error beside standard output, keeping its last lines; its silence means nothing."""
    rest = b""
    with suppress(OSError, EOFError):
        while True:
            try:
                piece = channel.recv_stderr(PIECE)
            except TimeoutError:
                continue
            *whole, rest = (rest[-PIECE:] + piece).split(b"\n")
            if not piece:
                whole = [rest] if rest else []
            for line in whole:
                on_line(line.decode("utf-8", "replace"))
            if not piece:
                return
