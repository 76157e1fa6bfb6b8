from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest

from benchmarks.monitoring.elsewhere import Client
from benchmarks.serving.pace import at_random, constant, load


class Server:
    """Answers with a status; notes the bodies and counts the connections."""

    def __init__(self) -> None:
        self.status = "200 OK"
        self.bodies: list[bytes] = []
        self.connections = 0
        self.port = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"POST /classify HTTP/1.1\r\n")
                length = int(head.partition(b"Content-Length: ")[2].split()[0])
                self.bodies.append(await reader.readexactly(length))
                writer.write(f"HTTP/1.1 {self.status}\r\nContent-Length: 2\r\n\r\n{{}}".encode())
        except asyncio.IncompleteReadError:
            writer.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    listening = await asyncio.start_server(server, "127.0.0.1", 0)
    server.port = listening.sockets[0].getsockname()[1]
    yield server
    listening.close()


async def test_one_after_another_share_a_connection(server: Server) -> None:
    client = Client(server.port, b"an image")
    answers = [await client.ask(due) for due in (1.0, 2.0, 3.0)]
    client.close()
    assert [one.due for one in answers] == [1.0, 2.0, 3.0]
    assert not any(one.problem for one in answers)
    assert (server.bodies, server.connections) == ([b"an image"] * 3, 1)


async def test_a_refusal_and_a_dead_server_are_problems(server: Server) -> None:
    server.status = "503 Service Unavailable"
    client = Client(server.port, b"an image")
    assert (await client.ask(0.0)).problem == "503"
    client.close()
    assert "Error" in (await Client(1, b"an image").ask(0.0)).problem


async def test_what_is_under_way_at_the_end_counts(server: Server) -> None:
    client = Client(server.port, b"an image")
    async with load(client.ask, constant(500)) as requests:
        while len(server.bodies) < 10:
            await asyncio.sleep(0.001)
    client.close()
    assert len(requests) == len(server.bodies)


def test_gaps_have_the_rate() -> None:
    even, draw = constant(50.0), at_random(50.0, seed=0)
    assert {even() for _ in range(3)} == {0.02}
    drawn = [draw() for _ in range(4000)]
    assert np.mean(drawn) == pytest.approx(0.02, rel=0.1)
    assert np.std(drawn) == pytest.approx(0.02, rel=0.1)
