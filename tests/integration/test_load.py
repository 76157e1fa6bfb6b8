"""A real service with a model that takes its time, and more clients than it can serve."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import pytest

from benchmarks.serving.load import infer_request
from protocol import open_inference_pb2 as pb
from protocol.open_inference_pb2_grpc import GRPCInferenceServiceStub
from testing import patient
from testing.images import coloured_pixels, encode
from testing.server import Server, make_home, serve
from testing.waiting import HANG_S, wait_until

IMAGE = encode(coloured_pixels(1))
PNG = {"Content-Type": "image/png"}
QUEUE = 16
CLOSED = (httpx.ConnectError, httpx.ReadError, httpx.RemoteProtocolError)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_home(tmp_path_factory.mktemp("slow"), busy=30)


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[Server]:
    settings = {"VGG19_MAX_QUEUE_IMAGES": str(QUEUE), "VGG19_MAX_REQUEST_IMAGES": "4"}
    with serve(home, home / "log", VGG19_MAX_BATCH_SIZE="4", **settings) as server:
        yield server


def metric(server: Server, name: str) -> float:
    text = patient.get(f"{server.url}/metrics").text
    values = re.findall(rf"^{re.escape(name)}(?:{{.*}})? (\S+)$", text, re.MULTILINE)
    return sum(map(float, values))


async def test_64_clients_share_batches_of_more_than_4(tmp_path: Path) -> None:
    """Whatever else the machine does: a batch takes as long as many requests take to arrive."""
    with serve(make_home(tmp_path, busy=400), tmp_path / "log") as server:
        async with patient.async_client(limits=httpx.Limits(max_connections=64)) as client:

            async def ask() -> None:
                reply = await client.post(f"{server.url}/classify", content=IMAGE, headers=PNG)
                assert reply.status_code == 200

            await asyncio.gather(*(ask() for _ in range(64)))
        batches = metric(server, "vgg19_batch_images_count")
        assert metric(server, "vgg19_batch_images_sum") == 64
        assert 64 / batches > 4


async def test_five_times_too_much_is_answered_or_refused(server: Server) -> None:
    """Nothing accepted is lost, what is refused says when to come again, and it goes on."""
    count = 5 * (QUEUE + 4) // 2

    async with (
        patient.async_client(limits=httpx.Limits(max_connections=count)) as client,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel,
    ):
        stub = GRPCInferenceServiceStub(channel)

        async def by_http() -> str:
            reply = await client.post(f"{server.url}/classify", content=IMAGE, headers=PNG)
            if reply.status_code == 503:
                assert reply.headers["retry-after"] == "1"
                assert "the limit is 16" in reply.json()["detail"]
                return "refused"
            return "answered" if reply.status_code == 200 else reply.text

        async def by_grpc() -> str:
            try:
                await stub.ModelInfer(infer_request(IMAGE))
            except grpc.aio.AioRpcError as error:
                resources = grpc.StatusCode.RESOURCE_EXHAUSTED
                return "refused" if error.code() is resources else str(error)
            return "answered"

        for _ in range(3):
            http, rpc = await asyncio.gather(
                asyncio.gather(*(by_http() for _ in range(count))),
                asyncio.gather(*(by_grpc() for _ in range(count))),
            )
            for outcomes in (http, rpc):
                assert set(outcomes) <= {"answered", "refused"}
            both = Counter([*http, *rpc])
            assert both["answered"] >= QUEUE
            assert both["refused"] > 0
        assert await by_http() == "answered"
        assert await by_grpc() == "answered"


async def test_sigterm_under_load_loses_no_accepted_request(home: Path, tmp_path: Path) -> None:
    """What the service says that it answered, it did answer, and it says nothing else."""
    with serve(home, tmp_path / "log", VGG19_MAX_BATCH_SIZE="4") as server:
        seen: Counter[str] = Counter()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            stub = GRPCInferenceServiceStub(channel)

            async def by_http() -> None:
                while True:
                    # A connection for each: on one that is kept, a request may cross its end.
                    async with patient.async_client() as client:
                        try:
                            reply = await client.post(
                                f"{server.url}/classify", content=IMAGE, headers=PNG
                            )
                        except CLOSED:
                            return
                    seen[f"http {reply.status_code}"] += 1

            async def by_grpc() -> None:
                while True:
                    try:
                        await stub.ModelInfer(infer_request(IMAGE), timeout=HANG_S)
                    except grpc.aio.AioRpcError as error:
                        # CANCELLED: it reached gRPC as that stopped, but no handler; if one had
                        # begun, the log would say so below.
                        if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                            return
                        raise
                    seen["grpc OK"] += 1

            clients = [asyncio.create_task(by_http()) for _ in range(12)]
            clients += [asyncio.create_task(by_grpc()) for _ in range(12)]
            while min(seen["http 200"], seen["grpc OK"]) < 50:
                await asyncio.sleep(0.05)
            server.process.send_signal(signal.SIGTERM)
            await asyncio.gather(*clients)
        assert await asyncio.to_thread(server.process.wait, 60) == 0
    lines = [json.loads(line) for line in read_log(tmp_path / "log")]
    said = Counter(f"{line['transport']} {line['status']}" for line in lines)
    assert set(seen) == {"http 200", "grpc OK"}
    assert said == seen


def read_log(log: Path) -> list[str]:
    lines = log.read_text().splitlines()
    return [line for line in lines if line.startswith('{"time"') and "ModelReady" not in line]


@pytest.mark.exhaustive
async def test_two_workers_share_both_ports(tmp_path: Path) -> None:
    home = make_home(tmp_path)
    with serve(home, tmp_path / "log", VGG19_WORKERS="2") as server:
        assert len(server.children()) >= 2
        # Ready is what the first worker says; the other one is to listen, too.
        listening = lambda: server.log.read_text().count("gRPC listens on") == 2  # noqa: E731
        await asyncio.to_thread(wait_until, listening)
        seen: Counter[str] = Counter()
        for _ in range(40):  # a connection for each, which the kernel gives to one or the other
            async with grpc.aio.insecure_channel(
                f"127.0.0.1:{server.grpc_port}", options=[("grpc.use_local_subchannel_pool", 1)]
            ) as channel:
                stub = GRPCInferenceServiceStub(channel)
                await stub.ModelInfer(infer_request(IMAGE))
                (counted,) = (await stub.ModelStatistics(pb.ModelStatisticsRequest())).model_stats
                seen[str(counted.inference_count)] += 1
        assert metric(server, "vgg19_images_total") == 40  # of all workers
        assert metric(server, "vgg19_reloads_total") == 2
        assert max(map(int, seen)) < 40  # neither answered all
        replies = [patient.post(f"{server.url}/classify", content=IMAGE, headers=PNG) for _ in "12"]
        assert [reply.status_code for reply in replies] == [200, 200]
