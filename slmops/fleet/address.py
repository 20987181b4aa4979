"""Where a host is, as people write it: `[user@]host[:port]`."""

from typing import NamedTuple

from slmops.errors import UsageError

SSH_PORT = 22
HIGHEST_PORT = 65535


class Address(NamedTuple):
    """A host to log in to; no user means whoever runs slmops."""

    user: str | None
    host: str
    port: int


def parse(said: str) -> Address:
    """Read `[user@]host[:port]`; an IPv6 address with a port stands in brackets."""
    user, at, rest = said.rpartition("@")
    if rest.startswith("["):
        host, closed, after = rest[1:].partition("]")
        _require(bool(closed) and after[:1] in ("", ":"), said)
        number = after[1:] if after else str(SSH_PORT)
    elif rest.count(":") == 1:
        host, _, number = rest.partition(":")
    else:
        host, number = rest, str(SSH_PORT)
    _require(bool(host) and not host.startswith("-") and not any(map(str.isspace, host)), said)
    _require(number.isascii() and number.isdecimal() and 0 < int(number) <= HIGHEST_PORT, said)
    _require(not at or bool(user), said)
    return Address(user if at else None, host, int(number))


def _require(good: bool, said: str) -> None:  # noqa: FBT001 - it is the sentence's verb
    if not good:
        raise UsageError(f"expected [user@]host[:port], got {said!r}")
