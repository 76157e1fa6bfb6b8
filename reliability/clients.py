"""Clients of a running service on both transports, which count what became of each request."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

import grpc
import httpx

from benchmarks.serving.load import infer_request
from protocol.open_inference_pb2_grpc import GRPCInferenceServiceStub
from testing.server import Server

logging.getLogger("httpx").setLevel(logging.WARNING)  # a line a request, with BentoML's set-up

# What can become of a request; anything else is told in words and counts as lost.
ANSWERED, REFUSED, BAD_IMAGE, GIVEN_UP = "answered", "refused", "bad image", "given up"
EXPECTED = frozenset({ANSWERED, REFUSED, BAD_IMAGE, GIVEN_UP})
_BY_STATUS = {200: ANSWERED, 400: BAD_IMAGE, 429: REFUSED, 503: REFUSED}
_BY_CODE = {
    grpc.StatusCode.INVALID_ARGUMENT: BAD_IMAGE,
    grpc.StatusCode.RESOURCE_EXHAUSTED: REFUSED,
}
_TIMEOUT_S = 60


class Client(Protocol):
    """Sends an encoded image and says what became of it."""

    async def ask(self, image: bytes) -> str: ...


class HttpClient:
    def __init__(self, client: httpx.AsyncClient, url: str, query: str = "") -> None:
        self._client, self._url = client, f"{url}/classify{query}"

    async def ask(self, image: bytes) -> str:
        headers = {"Content-Type": "image/jpeg"}
        try:
            reply = await self._client.post(self._url, content=image, headers=headers)
        except httpx.HTTPError as error:
            return f"{type(error).__name__}: {error}"
        return _BY_STATUS.get(reply.status_code, f"{reply.status_code}: {reply.text[:200]}")


class GrpcClient:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = GRPCInferenceServiceStub(channel)

    async def ask(self, image: bytes) -> str:
        try:
            # Or a channel that has lost its server would fail each call by itself, unsent.
            await self._stub.ModelInfer(
                infer_request(image), timeout=_TIMEOUT_S, wait_for_ready=True
            )
        except grpc.aio.AioRpcError as error:
            return _BY_CODE.get(error.code(), f"{error.code().name}: {error.details()}")
        return ANSWERED


@asynccontextmanager
async def clients_of(
    server: Server, connections: int = 400
) -> AsyncIterator[tuple[Client, Client]]:
    """One for HTTP, one for gRPC; both may be asked many times at once."""
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    async with (
        httpx.AsyncClient(timeout=_TIMEOUT_S, limits=limits) as client,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel,
    ):
        yield HttpClient(client, server.url), GrpcClient(channel)


async def ask_and_vanish(client: Client, image: bytes, after_s: float) -> str:
    """Ask, and go away if there is no answer within `after_s`."""
    try:
        async with asyncio.timeout(after_s):
            return await client.ask(image)
    except TimeoutError:
        return GIVEN_UP


def lost(outcomes: Counter[str]) -> dict[str, int]:
    """The outcomes that no request may have."""
    return {what: count for what, count in outcomes.items() if what not in EXPECTED}
