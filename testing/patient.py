"""HTTP requests to a service that runs, with a time limit that only a failure reaches.

httpx's own limit, 5 s, is one that a busy machine exceeds.
"""

from __future__ import annotations

import ssl
from typing import Any

import httpx

from testing.waiting import HANG_S

Client = httpx.Client  # the type of `client`
# Trusts nobody, so https needs a context of the caller's. To read the list of authorities, as httpx
# does for http, too, takes 15 ms a client: more than most requests.
_NO_AUTHORITY = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
# No proxy of the environment's stands between a test and 127.0.0.1.
_OPTIONS: dict[str, Any] = {"timeout": HANG_S, "verify": _NO_AUTHORITY, "trust_env": False}


def client(**options: Any) -> Client:
    """An `httpx.Client`; options override the limit and whom it trusts."""
    return httpx.Client(**(_OPTIONS | options))


def async_client(**options: Any) -> httpx.AsyncClient:
    """As `client`, for tests that ask many times at once."""
    return httpx.AsyncClient(**(_OPTIONS | options))


def get(url: str, **options: Any) -> httpx.Response:
    return httpx.get(url, **(_OPTIONS | options))


def post(url: str, **options: Any) -> httpx.Response:
    return httpx.post(url, **(_OPTIONS | options))


def preflight(url: str, **options: Any) -> httpx.Response:
    """What a browser asks before a request to another origin: OPTIONS."""
    return httpx.options(url, **(_OPTIONS | options))
