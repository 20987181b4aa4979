"""A request's head, as whoever answers may rely on it.

Pure. It knows HTTP's rules of heads, and no path, key or model.

Laws: no head is longer than LONGEST bytes, in however many pieces it came; what is asked for is a path, and
the host is the one that was meant; how long a body is was said in one way only.
"""

from __future__ import annotations

import re

from starlette.types import Scope

from slmops.daemon.refusal import BAD_REQUEST, RefusedError

LONGEST = 64 * 1024
_ABSOLUTE = re.compile(r"https?://([^/]*)(.*)", re.IGNORECASE | re.DOTALL)


def plain(scope: Scope) -> Scope:
    """Return the scope with a path for what is asked for; raise RefusedError 400 for a head that is none."""
    fields: list[tuple[bytes, bytes]] = scope["headers"]
    target = scope.get("raw_path", b"") + scope.get("query_string", b"")
    if len(target) + sum(len(name) + len(value) + len(": \r\n") for name, value in fields) > LONGEST:
        raise _bad(f"the request's head has more than {LONGEST} bytes", "head_too_large")
    if {b"content-length", b"transfer-encoding"} <= {name for name, _ in fields}:
        raise _bad("Content-Length and Transfer-Encoding: expected one of them", "invalid_head")
    absolute = _ABSOLUTE.fullmatch(scope["path"])
    if absolute is None:
        return scope
    host, path = absolute[1].encode(), absolute[2] or "/"
    others = [(name, value) for name, value in fields if name != b"host"]
    return {**scope, "path": path, "raw_path": path.encode(), "headers": [(b"host", host), *others]}


def _bad(message: str, reason: str) -> RefusedError:
    return RefusedError(BAD_REQUEST, message, reason=reason)
