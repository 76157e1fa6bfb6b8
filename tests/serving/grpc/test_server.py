"""The server around the RPCs: ports, limits, TLS, health, reflection."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import grpc
import pytest
import trustme
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from protocol import open_inference_pb2 as pb
from protocol.open_inference_pb2_grpc import GRPCInferenceServiceStub
from serving.core.dataplane import DataPlane
from serving.grpc.server import (
    SERVICE,
    GrpcServer,
    GrpcServerError,
    TlsFiles,
    _channel_arguments,
    check_start,
)
from serving.grpc.servicer import InferenceServicer
from testing.ports import free_port
from testing.waiting import HANG_S
from tests.serving.conftest import context_of, grpc_options, grpc_serving

NO_MESSAGE = b"\xff\xff\xff"


def test_a_taken_port_is_an_error() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(GrpcServerError, match=r"can't listen .* VGG19_GRPC_PORT"),
    ):
        check_start(grpc_options(taken.getsockname()[1]))


async def test_two_servers_do_not_share_a_port_unless_told_to(classifier: DataPlane) -> None:
    servicer = InferenceServicer(context_of(classifier), "1.2.3")
    async with grpc_serving(context_of(classifier)) as address:
        port = int(address.rpartition(":")[2])
        with pytest.raises(GrpcServerError, match="can't listen"):
            await GrpcServer.start(servicer, grpc_options(port))
    async with grpc_serving(context_of(classifier), share_port=True) as address:
        port = int(address.rpartition(":")[2])
        other = await GrpcServer.start(servicer, grpc_options(port, share_port=True))
        with pytest.raises(GrpcServerError):  # a third that doesn't know of them
            check_start(grpc_options(port))
        await other.stop(grace_s=0)


async def test_health_follows_readiness_and_ends_with_the_server(classifier: DataPlane) -> None:
    port = free_port()
    servicer = InferenceServicer(context_of(classifier), "1.2.3")
    server = await GrpcServer.start(servicer, grpc_options(port))
    states = health_pb2.HealthCheckResponse
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for service in ("", SERVICE):
            reply = await stub.Check(health_pb2.HealthCheckRequest(service=service))
            assert reply.status == states.SERVING
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        assert (await watch.read()).status == states.SERVING
        await server.set_ready(False)
        assert (await watch.read()).status == states.NOT_SERVING
        await server.set_ready(True)
        assert (await watch.read()).status == states.SERVING
        stopping = asyncio.create_task(server.stop(grace_s=5))
        assert (await watch.read()).status == states.NOT_SERVING
        watch.cancel()
        await stopping


async def test_reflection_describes_every_call(classifier: DataPlane) -> None:
    async with grpc_serving(context_of(classifier)) as address:

        def methods() -> list[str]:
            with grpc.insecure_channel(address) as channel:
                pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
                return [method.name for method in pool.FindServiceByName(SERVICE).methods]

        described = await asyncio.to_thread(methods)
    (service,) = pb.DESCRIPTOR.services_by_name.values()
    assert described == [method.name for method in service.methods]
    assert {"ModelInfer", "ModelStreamInfer", "RepositoryModelLoad"} <= set(described)


@pytest.mark.parametrize(
    "method",
    [*(f"{SERVICE}/{method.name}" for method in pb.DESCRIPTOR.services_by_name[
        "GRPCInferenceService"].methods if method.name != "ModelStreamInfer"),
     "grpc.health.v1.Health/Check"],
)  # fmt: skip
async def test_a_message_that_is_none(
    classifier: DataPlane, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    async with (
        grpc_serving(context_of(classifier)) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(f"/{method}", None, None)(NO_MESSAGE, timeout=HANG_S)
    check_malformed(caught.value)
    assert caplog.records == []


@pytest.mark.parametrize(
    "method",
    [
        f"{SERVICE}/ModelStreamInfer",
        "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ],
)
async def test_a_message_of_a_stream_that_is_none(
    classifier: DataPlane, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    async with (
        grpc_serving(context_of(classifier)) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        streaming = channel.stream_stream(f"/{method}", None, None)
        call = streaming(iter([b"", NO_MESSAGE, b""]), timeout=HANG_S)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in call:
                pass
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch", None, None)(NO_MESSAGE)
        with pytest.raises(grpc.aio.AioRpcError) as watching:
            await watch.read()
    check_malformed(caught.value)
    check_malformed(watching.value)
    assert caplog.records == []


def check_malformed(error: grpc.aio.AioRpcError) -> None:
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert str(error.details()).startswith("the request is not a message of this call")


async def test_calls_above_the_limit_are_refused(classifier: DataPlane) -> None:
    async with (
        grpc_serving(context_of(classifier), max_concurrent_calls=2) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        health = health_pb2_grpc.HealthStub(channel)
        watching = [health.Watch(health_pb2.HealthCheckRequest()) for _ in range(2)]
        for watch in watching:
            await watch.read()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await GRPCInferenceServiceStub(channel).ServerLive(pb.ServerLiveRequest())
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        for watch in watching:
            watch.cancel()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority, and certificates of a server and a client that it signed."""
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    for name in ("localhost", "client"):
        issued = authority.issue_cert(name)
        issued.cert_chain_pems[0].write_to_path(folder / f"{name}.pem")
        issued.private_key_pem.write_to_path(folder / f"{name}.key")
    return folder


class TestTls:
    async def live(self, address: str, credentials: grpc.ChannelCredentials) -> bool:
        port = address.rpartition(":")[2]
        async with grpc.aio.secure_channel(f"localhost:{port}", credentials) as channel:
            stub = GRPCInferenceServiceStub(channel)
            return bool((await stub.ServerLive(pb.ServerLiveRequest(), timeout=HANG_S)).live)

    async def test_tls(self, classifier: DataPlane, authority: Path) -> None:
        tls = TlsFiles(authority / "localhost.pem", authority / "localhost.key")
        check_start(grpc_options(free_port(), tls=tls))
        trusted = grpc.ssl_channel_credentials((authority / "ca.pem").read_bytes())
        async with grpc_serving(context_of(classifier), tls=tls) as address:
            assert await self.live(address, trusted)
            with pytest.raises(grpc.aio.AioRpcError):
                await self.live(
                    address, grpc.ssl_channel_credentials()
                )  # doesn't know the authority

    async def test_mutual_tls(self, classifier: DataPlane, authority: Path) -> None:
        tls = TlsFiles(
            authority / "localhost.pem", authority / "localhost.key", authority / "ca.pem"
        )
        root = (authority / "ca.pem").read_bytes()
        known = grpc.ssl_channel_credentials(
            root, (authority / "client.key").read_bytes(), (authority / "client.pem").read_bytes()
        )
        async with grpc_serving(context_of(classifier), tls=tls) as address:
            assert await self.live(address, known)
            with pytest.raises(grpc.aio.AioRpcError):
                await self.live(address, grpc.ssl_channel_credentials(root))

    def test_files_that_cannot_be_used(self, authority: Path, tmp_path: Path) -> None:
        nothing = tmp_path / "nothing.pem"
        nothing.write_text("no certificate")
        good = TlsFiles(authority / "localhost.pem", authority / "localhost.key")
        for bad in (
            TlsFiles(nothing, good.key),
            TlsFiles(good.cert, tmp_path / "missing.key"),
            TlsFiles(good.cert, authority / "client.key"),  # of another certificate
            TlsFiles(good.cert, good.key, nothing),
        ):
            with pytest.raises(GrpcServerError, match="TLS files can't be used"):
                check_start(grpc_options(free_port(), tls=bad))


def test_keep_alive_and_limits_reach_grpc() -> None:
    arguments = dict(_channel_arguments(grpc_options(1, keepalive_s=7.5, max_connection_age_s=60)))
    assert arguments["grpc.keepalive_time_ms"] == 7500
    assert arguments["grpc.max_connection_age_ms"] == 60_000
    assert arguments["grpc.max_receive_message_length"] == 50_000
    assert arguments["grpc.so_reuseport"] == 0
    assert "grpc.max_connection_age_ms" not in dict(_channel_arguments(grpc_options(1)))
