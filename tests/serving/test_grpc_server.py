from __future__ import annotations

import hashlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import numpy as np
import pytest

from serving.access import Keys, RateLimit
from serving.classifier import Classifier
from serving.front import Front
from serving.grpc_server import GrpcOptions, GrpcServer, GrpcServerError, check_start
from serving.grpc_service import InferenceServicer
from serving.proto import open_inference_pb2 as pb
from serving.proto.open_inference_pb2_grpc import GRPCInferenceServiceStub
from tests.helpers import coloured_pixels, encode, tiny_probabilities
from tests.serving.conftest import StubModel, front_of

PIXELS = np.stack([coloured_pixels(seed) for seed in range(8)])
IMAGES = [encode(pixels) for pixels in PIXELS]
MAX_MESSAGE_BYTES = 50_000


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def options_of(port: int, **changes: Any) -> GrpcOptions:
    return GrpcOptions("127.0.0.1", port, max_message_bytes=MAX_MESSAGE_BYTES, **changes)


@asynccontextmanager
async def serving(front: Front, **changes: Any) -> AsyncIterator[str]:
    """A server on a free port; gives its address."""
    port = free_port()
    server = await GrpcServer.start(InferenceServicer(front, "1.2.3"), options_of(port, **changes))
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(grace_s=0)


@pytest.fixture
async def stub(classifier: Classifier) -> AsyncIterator[GRPCInferenceServiceStub]:
    async with (
        serving(front_of(classifier)) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        yield GRPCInferenceServiceStub(channel)


def request(*images: bytes, model: str = "vgg19", version: str = "") -> pb.ModelInferRequest:
    contents = pb.InferTensorContents(bytes_contents=images)
    tensor = pb.ModelInferRequest.InferInputTensor(
        name="image", datatype="BYTES", shape=[len(images)], contents=contents
    )
    return pb.ModelInferRequest(model_name=model, model_version=version, inputs=[tensor])


async def test_health_and_metadata(stub: GRPCInferenceServiceStub) -> None:
    assert (await stub.ServerLive(pb.ServerLiveRequest())).live
    assert (await stub.ServerReady(pb.ServerReadyRequest())).ready
    server = await stub.ServerMetadata(pb.ServerMetadataRequest())
    assert (server.name, server.version) == ("vgg19-finetune", "1.2.3")
    model = await stub.ModelMetadata(pb.ModelMetadataRequest(name="vgg19"))
    assert list(model.versions) == ["v1"]


@pytest.mark.parametrize(
    ("name", "version", "ready"),
    [("vgg19", "", True), ("vgg19", "v1", True), ("vgg19", "v2", False), ("resnet", "", False)],
)
async def test_which_models_are_ready(
    stub: GRPCInferenceServiceStub, name: str, version: str, ready: bool
) -> None:
    reply = await stub.ModelReady(pb.ModelReadyRequest(name=name, version=version))
    assert reply.ready is ready


async def test_infer(stub: GRPCInferenceServiceStub) -> None:
    reply = await stub.ModelInfer(request(*IMAGES, version="v1"))
    probabilities, label = reply.outputs
    np.testing.assert_allclose(
        np.reshape(probabilities.contents.fp32_contents, (8, 3)),
        tiny_probabilities(PIXELS),
        atol=1e-6,
    )
    assert list(label.contents.bytes_contents)[:3] == [b"blue", b"green", b"red"]


async def test_pixels_versions_and_classes(
    stub: GRPCInferenceServiceStub, classifier: Classifier
) -> None:
    await classifier.models.load("v2")
    assert list((await stub.ModelMetadata(pb.ModelMetadataRequest(name="vgg19"))).versions) == [
        "v1", "v2",
    ]  # fmt: skip
    tensor = pb.ModelInferRequest.InferInputTensor(
        name="pixels", datatype="UINT8", shape=[2, 32, 32, 3]
    )
    output = pb.ModelInferRequest.InferRequestedOutputTensor(name="probabilities")
    output.parameters["classification"].int64_param = 2
    reply = await stub.ModelInfer(
        pb.ModelInferRequest(
            model_name="vgg19", model_version="v2", inputs=[tensor], outputs=[output],
            raw_input_contents=[PIXELS[1:3].tobytes()],
        )
    )  # fmt: skip
    assert reply.model_version == "v2"
    (classes,) = reply.outputs
    assert (classes.datatype, list(classes.shape)) == ("BYTES", [2, 2])
    expected = tiny_probabilities(PIXELS[1:3])
    assert f"{expected[0].max():f}:1:green".encode() in reply.raw_output_contents[0]


@pytest.mark.parametrize(
    ("bad", "code", "words"),
    [
        (request(b"no image"), grpc.StatusCode.INVALID_ARGUMENT, "image 0: not an image"),
        (request(), grpc.StatusCode.INVALID_ARGUMENT, "N >= 1"),
        (request(*[b"x"] * 9), grpc.StatusCode.INVALID_ARGUMENT, "the limit is 8"),
        (request(IMAGES[0], model="a"), grpc.StatusCode.NOT_FOUND, "'vgg19' is, version v1"),
        (request(IMAGES[0], version="9"), grpc.StatusCode.NOT_FOUND, "version '9' is not served"),
        (request(b"x" * MAX_MESSAGE_BYTES), grpc.StatusCode.RESOURCE_EXHAUSTED, "larger than max"),
    ],
)
async def test_errors_have_their_code(
    stub: GRPCInferenceServiceStub, bad: pb.ModelInferRequest, code: grpc.StatusCode, words: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ModelInfer(bad)
    assert caught.value.code() is code
    assert words in (caught.value.details() or "")


async def test_unknown_model_has_no_metadata(stub: GRPCInferenceServiceStub) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ModelMetadata(pb.ModelMetadataRequest(name="resnet"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_an_internal_error_shows_nothing_of_the_inside(
    stub: GRPCInferenceServiceStub, model: StubModel
) -> None:
    model.error = RuntimeError("secret")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ModelInfer(request(IMAGES[0]))
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in (caught.value.details() or "")


async def test_keys_and_rates(classifier: Classifier) -> None:
    front = front_of(
        classifier,
        keys=Keys([hashlib.sha256(b"secret").hexdigest()]),
        rate_limit=RateLimit(0.001, 2),
        is_ready=lambda: False,
    )
    async with serving(front) as address, grpc.aio.insecure_channel(address) as channel:
        stub = GRPCInferenceServiceStub(channel)
        assert not (await stub.ServerReady(pb.ServerReadyRequest())).ready  # probes need no key

        async def infer(key: str) -> grpc.StatusCode:
            try:
                await stub.ModelInfer(
                    request(IMAGES[0]), metadata=(("authorization", f"Bearer {key}"),)
                )
            except grpc.aio.AioRpcError as error:
                return error.code()
            return grpc.StatusCode.OK

        assert await infer("wrong") is grpc.StatusCode.UNAUTHENTICATED
        with pytest.raises(grpc.aio.AioRpcError, match="this needs a key"):
            await stub.ModelMetadata(pb.ModelMetadataRequest(name="vgg19"))
        codes = [await infer("secret") for _ in range(3)]
        assert codes == [grpc.StatusCode.OK] * 2 + [grpc.StatusCode.RESOURCE_EXHAUSTED]


def test_a_taken_port_is_an_error() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(GrpcServerError, match=r"can't listen .* VGG19_GRPC_PORT"),
    ):
        check_start(options_of(taken.getsockname()[1]))


async def test_two_servers_do_not_share_a_port_unless_told_to(classifier: Classifier) -> None:
    servicer = InferenceServicer(front_of(classifier), "1.2.3")
    async with serving(front_of(classifier)) as address:
        port = int(address.rpartition(":")[2])
        with pytest.raises(GrpcServerError, match="can't listen"):
            await GrpcServer.start(servicer, options_of(port))
    async with serving(front_of(classifier), share_port=True) as address:
        port = int(address.rpartition(":")[2])
        other = await GrpcServer.start(servicer, options_of(port, share_port=True))
        with pytest.raises(GrpcServerError):  # a third that doesn't know of them
            check_start(options_of(port))
        await other.stop(grace_s=0)
