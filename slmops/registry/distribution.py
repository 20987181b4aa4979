"""Speak HTTP with an OCI registry: one request at a time, with a token where it wants one, and patiently.

A registry that asks for a token names who gives it (`WWW-Authenticate: Bearer realm=...`); the token is
fetched once, and again when it has expired. Credentials go over TLS alone, unless the operator chose plain
HTTP, and to whom the registry itself names: where it sends us on to, nobody is told any. What is too busy
(429, 502, 503, 504) is asked again after as long as it says.
Sources: github.com/opencontainers/distribution-spec, spec.md; distribution.github.io, token authentication.
"""

import base64
import json
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from threading import Lock
from typing import Any

import httpx

from slmops.errors import RegistryError, UnreachableError
from slmops.registry import credentials
from slmops.registry.credentials import Credentials

PATIENCE = httpx.Timeout(60.0, connect=15.0)
SMALL = 4 << 20
"""Bytes of the longest manifest or answer that is read."""
_BUSY = (429, 502, 503, 504)
_ATTEMPTS = 4
_LONGEST_WAIT = 30.0
_LOCAL = ("localhost", "127.0.0.1", "[::1]")
_LOGIN = "Run `docker login {host}` (or `oras login`): what it keeps is used here."
_NUMBER = re.compile(r"[0-9]{1,15}")
_WORDS = 300
"""Letters of a registry's complaint that are repeated."""
_PARAMETER = re.compile(r'([a-zA-Z_]+)="([^"]*)"')


@dataclass(frozen=True)
class Answer:
    """An answer that was read whole."""

    status: int
    headers: httpx.Headers
    content: bytes
    url: httpx.URL


class Distribution:
    """The HTTP side of one repository in an OCI registry. Threads may share it."""

    def __init__(self, host: str, repository: str, *, plain_http: bool = False) -> None:
        self.host, self.repository = host, repository
        local = re.sub(r":\d+$", "", host) in _LOCAL
        self.scheme = "http" if plain_http or local else "https"
        self.base = f"{self.scheme}://{host}/v2/{repository}/"
        self._client = httpx.Client(timeout=PATIENCE, headers={"Accept-Encoding": "identity"})
        self._authorization: str | None = None
        self._lock = Lock()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def ask(
        self, method: str, url: str, *, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Return the answer, at most `SMALL` bytes of it; `url` may be relative to the repository.

        Raise RegistryError when it does not let us in, UnreachableError when it does not answer.
        """
        with self.open(method, url, body=body, headers=headers) as heard:
            return self.whole(heard)

    @contextmanager
    def open(
        self, method: str, url: str, *, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Iterator[httpx.Response]:
        """Give the answer with its content still to come: `pieces` or `whole` reads it."""
        heard = self._send(method, httpx.URL(self.base).join(url), body, headers or {})
        try:
            yield heard
        finally:
            heard.close()

    def pieces(self, heard: httpx.Response) -> Iterator[bytes]:
        """Yield what an answer carries; raise UnreachableError when the link breaks."""
        try:
            yield from heard.iter_raw(1 << 20)
        except httpx.RequestError as error:
            raise self._unreachable(error) from error

    def place(self, seen_from: str | httpx.URL, said: str) -> httpx.URL:
        """Return the address that an answer gives; raise RegistryError when it is none."""
        try:
            return httpx.URL(seen_from).join(said)
        except httpx.InvalidURL as error:
            raise RegistryError(f"{self.host} gives an address that is none: {error}") from error

    def whole(self, heard: httpx.Response) -> Answer:
        """Read an answer that is small; raise RegistryError when it is not."""
        content = bytearray()
        for piece in self.pieces(heard):
            content += piece
            if len(content) > SMALL:
                raise RegistryError(f"{self.host} answers {heard.url} with more than {SMALL} bytes")
        return Answer(heard.status_code, heard.headers, bytes(content), heard.url)

    def refusal(self, heard: Answer, what: str) -> RegistryError:
        """Return what to raise when `what` was answered with something else than success."""
        return RegistryError(f"{self.host} {what}: {heard.status} {_complaint(heard)}".rstrip())

    def _send(self, method: str, where: httpx.URL, body: bytes, said: Mapping[str, str]) -> httpx.Response:
        heard = self._send_patiently(method, where, body, said)
        if heard.status_code == HTTPStatus.UNAUTHORIZED and self._is_registry(heard.url):
            heard.close()
            self._let_in(heard)
            heard = self._send_patiently(method, where, body, said)
        if heard.status_code in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            told = self.whole(heard)
            heard.close()
            raise RegistryError(
                f"{self.host} does not let you at {self.repository}: {told.status} {_complaint(told)}",
                remedy=_LOGIN.format(host=self.host),
            )
        return heard

    def _send_patiently(
        self, method: str, where: httpx.URL, body: bytes, said: Mapping[str, str]
    ) -> httpx.Response:
        for attempt in range(_ATTEMPTS):
            heard = self._send_once(method, where, body, said)
            if heard.status_code not in _BUSY:
                return heard
            heard.close()
            time.sleep(_wait(heard, attempt))
        return self._send_once(method, where, body, said)

    def _send_once(
        self, method: str, where: httpx.URL, body: bytes, said: Mapping[str, str]
    ) -> httpx.Response:
        known = self._authorization if self._is_registry(where) else None
        more = {"Authorization": known} if known else {}
        if method not in {"GET", "HEAD"}:
            more["Content-Length"] = str(len(body))
        content = _once(body) if body else None
        request = self._client.build_request(method, where, content=content, headers={**said, **more})
        try:
            # Content may lie elsewhere; httpx sends no Authorization on to another host.
            return self._client.send(request, stream=True, follow_redirects=method in {"GET", "HEAD"})
        except httpx.RequestError as error:
            raise self._unreachable(error) from error

    def _is_registry(self, where: httpx.URL) -> bool:
        here = httpx.URL(self.base)
        return (where.scheme, where.netloc) == (here.scheme, here.netloc)

    def _let_in(self, heard: httpx.Response) -> None:
        """Find what opens the door that an answer says is shut."""
        kind, _, rest = heard.headers.get("www-authenticate", "").partition(" ")
        known = credentials.of_host(self.host)
        with self._lock:
            if kind.lower() == "bearer":
                self._authorization = f"Bearer {self._token(dict(_PARAMETER.findall(rest)), known)}"
            elif kind.lower() == "basic" and known is not None:
                self._authorization = _basic(known)

    def _token(self, said: dict[str, str], known: Credentials | None) -> str:
        realm = self.place(self.base, said.get("realm", ""))
        if realm.scheme != "https" and self.scheme == "https":
            raise RegistryError(f"{self.host} wants a token from {realm}: expected an https:// address")
        # The same for every request: threads share the token, and one may push while another looks.
        scope = f"repository:{self.repository}:pull,push"
        asked = {"service": said.get("service", ""), "scope": scope}
        if known is not None and known.identity_token:
            asked |= {"grant_type": "refresh_token", "client_id": "slmops"}
            asked |= {"refresh_token": known.identity_token}
            request = self._client.build_request("POST", realm, data=asked)
        else:
            who = {"Authorization": _basic(known)} if known is not None else {}
            request = self._client.build_request("GET", realm, params=asked, headers=who)
        try:
            with closing(self._client.send(request, stream=True)) as heard:
                told = self.whole(heard)
        except httpx.RequestError as error:
            raise self._unreachable(error) from error
        given = _json(told)
        token = given.get("token") or given.get("access_token")
        if told.status != HTTPStatus.OK or not isinstance(token, str):
            raise RegistryError(
                f"{realm.host} gives no token for {self.host}: {told.status} {_complaint(told)}",
                remedy=_LOGIN.format(host=self.host),
            )
        return token

    def _unreachable(self, error: httpx.RequestError) -> UnreachableError:
        return UnreachableError(
            f"{self.host}: {str(error) or type(error).__name__}",
            remedy="Check the address, and your network; --plain-http is for a registry without TLS. The "
            "same command again goes on where this one was cut.",
        )


def _once(body: bytes) -> Iterator[bytes]:
    """Yield the body and let go of it: a request lives on in its answer, until the garbage is collected."""
    yield body


def _basic(known: Credentials) -> str:
    return "Basic " + base64.b64encode(f"{known.user}:{known.password}".encode()).decode()


def _wait(heard: httpx.Response, attempt: int) -> float:
    """Return the seconds to wait before asking again."""
    said = number(heard.headers.get("retry-after", ""))
    return min(2.0**attempt if said is None else said, _LONGEST_WAIT)


def number(said: str) -> int | None:
    """Return the number that a header says; None when it says none that anybody counts to."""
    return int(said) if _NUMBER.fullmatch(said) else None


def _json(heard: Answer) -> dict[str, Any]:
    try:
        said = json.loads(heard.content)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _complaint(heard: Answer) -> str:
    """Return what a registry says is wrong."""
    errors = _json(heard).get("errors")
    listed = errors if isinstance(errors, list) else []
    said = "; ".join(str(each.get("message")) for each in listed if isinstance(each, dict))
    return "".join(filter(str.isprintable, said))[:_WORDS]
