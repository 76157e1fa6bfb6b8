"""Who may ask: this page alone, under the names that it has, with the key where one is needed.

A page on a loopback address is still asked by whatever other pages the browser has open. So a
request must name one of this page's own hosts (DNS rebinding: another site's name that has come to
mean 127.0.0.1 is refused), must not come from another site, and what changes something must say
that it comes from this page (CSRF).
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from models.loopback import is_loopback

# Sent by the page with each request; a form can't, and a script of another site has to ask first.
HEADER = "x-review"
_SAFE = ("GET", "HEAD")
_HTTP_PORT = 80  # a Host header may leave it out
_ALL_ADDRESSES = ("0.0.0.0", "::")  # noqa: S104  # compared with, not listened on


class Hosts(Protocol):
    """The values of a Host header, in lower case, that mean this page. `remedy`: what to do where
    one doesn't."""

    @property
    def remedy(self) -> str: ...

    def __contains__(self, host: str) -> bool: ...


@dataclass(frozen=True)
class OwnHosts:
    """The values of a Host header that mean this page.

    Args:
        names: in lower case.
        any_address_at: a port: any IP address with it will do, where the page listens on all of
            them. Rebinding needs a name.
    """

    names: frozenset[str]
    any_address_at: int | None = None
    remedy = "open it by its own address, or start it with --allow-host NAME"

    def __contains__(self, host: str) -> bool:
        if host in self.names or self.any_address_at is None:
            return host in self.names
        port = f":{self.any_address_at}"
        if self.any_address_at != _HTTP_PORT and not host.endswith(port):
            return False
        with suppress(ValueError):
            ipaddress.ip_address(host.removesuffix(port).strip("[]"))
            return True
        return False


def own_hosts(host: str, port: int, names: Sequence[str] = ()) -> OwnHosts:
    """What a page may be called.

    Args:
        host: IP address that it listens on.
        names: further ones that it is reached by, with or without a port.
    """
    hosts = [host, "localhost", "127.0.0.1", "::1"] if is_loopback(host) else [host]
    bracketed = [f"[{one}]" if ":" in one else one for one in hosts]
    given = [*names, *(f"{name}:{port}" for name in names)]
    usual = bracketed if port == _HTTP_PORT else []
    own = (*given, *usual, *(f"{one}:{port}" for one in bracketed))
    return OwnHosts(frozenset(map(str.lower, own)), port if host in _ALL_ADDRESSES else None)


@dataclass(frozen=True)
class ServiceHosts:
    """The values of a Host header that mean a service: any IP address, this machine, and names that
    it was given, at any port; containers and proxies map ports. Rebinding needs another name.

    Args:
        names: in lower case, without ports.
    """

    names: frozenset[str]
    remedy = "open it by its address, or add the name to VGG19_REVIEW_HOSTS"

    def __contains__(self, host: str) -> bool:
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        if name in self.names or name == "localhost":
            return True
        with suppress(ValueError):
            ipaddress.ip_address(name.strip("[]"))
            return True
        return False


class Guard:
    """ASGI middleware: answers itself what isn't allowed.

    Args:
        hosts: see `own_hosts`, `ServiceHosts`.
        key: that requests must send as `Authorization: Bearer KEY`, but for the page's own files,
            which hold nothing secret; None: no key is asked for, or somebody else asks for it.
        public: paths of these files.
    """

    def __init__(self, app: ASGIApp, hosts: Hosts, key: str | None, public: frozenset[str]) -> None:
        self._app = app
        self._hosts = hosts
        self._digest = None if key is None else _digest(key)
        self._public = public

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # lifespan; there are no web sockets
            await self._app(scope, receive, send)
            return
        refused = self._refusal(scope["method"], scope["path"], Headers(scope=scope))
        if refused is None:
            await self._app(scope, receive, send)
            return
        status, detail = refused
        body = json.dumps({"detail": detail}).encode()
        headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
        if status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _refusal(self, method: str, path: str, headers: Headers) -> tuple[int, str] | None:
        """Status and reason; None: it may ask."""
        host = headers.get("host", "").lower()
        if host not in self._hosts:
            return 421, (f"'{host[:200]}' is not a name of this page; {self._hosts.remedy}")
        origin = headers.get("origin")
        if origin is not None and origin.lower().partition("://")[2] != host:
            return 403, "this request comes from another site's page"
        if path in self._public and method in _SAFE:
            return None
        if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return 403, "this request comes from another site's page"
        if method not in _SAFE and headers.get(HEADER) != "1":
            return 403, f"what changes something needs the header {HEADER}: 1"
        if self._digest is not None and not self._is_known(headers.get("authorization", "")):
            return 401, "this needs the key that 'vgg19 review' has printed, or that of --key-file"
        return None

    def _is_known(self, authorization: str) -> bool:
        scheme, _, key = authorization.partition(" ")
        assert self._digest is not None
        same = hmac.compare_digest(_digest(key.strip()), self._digest)
        return same and scheme.lower() == "bearer"


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
