from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import itertools
from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from protocol import open_inference_pb2 as pb
from protocol.open_inference_pb2_grpc import GRPCInferenceServiceStub
from serving.admission.api_keys import Keys
from serving.admission.rate_limit import RateLimit
from serving.core.dataplane import DataPlane
from serving.core.errors import RequestError
from serving.core.inflight import InFlightBytes
from serving.grpc.servicer import _code
from serving.open_inference.protobuf_codec import Message
from testing.bundles import tiny_heat_map, tiny_probabilities
from testing.images import coloured_pixels, encode
from testing.waiting import HANG_S
from tests.serving.conftest import (
    ENGINES,
    MAX_MESSAGE_BYTES,
    STUB_CONFIDENCE,
    StubModel,
    context_of,
    grpc_serving,
    stub_distance,
)
from tests.serving.observability.test_telemetry import TRACEPARENT, Traced, check_spans

PIXELS = np.stack([coloured_pixels(seed) for seed in range(8)])
IMAGES = [encode(pixels) for pixels in PIXELS]
ADMIN = (("authorization", "Bearer admin"),)


@pytest.fixture
async def stub(classifier: DataPlane) -> AsyncIterator[GRPCInferenceServiceStub]:
    async with (
        grpc_serving(context_of(classifier)) as address,
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
    stub: GRPCInferenceServiceStub, classifier: DataPlane
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
        (request(b"no image"), grpc.StatusCode.INVALID_ARGUMENT, "not an image"),
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


async def test_keys_and_rates(classifier: DataPlane) -> None:
    context = context_of(
        classifier,
        keys=Keys([hashlib.sha256(b"secret").hexdigest()]),
        rate_limit=RateLimit(0.001, 2),
        is_ready=lambda: False,
    )
    async with grpc_serving(context) as address, grpc.aio.insecure_channel(address) as channel:
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


@pytest.mark.parametrize("key", [None, "Bearer wrong"])
async def test_every_method_asks_for_a_key_but_the_probes(
    classifier: DataPlane, key: str | None
) -> None:
    """Of the service's own description, so that a new method without a decision fails."""
    open_to_all = {"ServerLive", "ServerReady", "ServerMetadata"}
    secret = hashlib.sha256(b"secret").hexdigest()
    context = context_of(classifier, keys=Keys([secret], secret))
    metadata = None if key is None else (("authorization", key),)
    service = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    async with grpc_serving(context) as address, grpc.aio.insecure_channel(address) as channel:
        for method in service.methods:
            path = f"/{service.full_name}/{method.name}"
            if method.server_streaming:
                replies = channel.stream_stream(path, None, None)(iter([b""]), metadata=metadata)
                content = await replies.read()
                assert isinstance(content, bytes)
                reply = pb.ModelStreamInferResponse.FromString(content)
                assert "this needs a key" in reply.error_message
                continue
            try:
                await channel.unary_unary(path, None, None)(b"", metadata=metadata)
                code = grpc.StatusCode.OK
            except grpc.aio.AioRpcError as error:
                code = error.code()
            refused = code is grpc.StatusCode.UNAUTHENTICATED
            assert refused != (method.name in open_to_all), (method.name, code)


@pytest.mark.parametrize(("provider", "platform", "backend"), ENGINES)
async def test_the_engine_is_named(
    stub: GRPCInferenceServiceStub,
    classifier: DataPlane,
    provider: str,
    platform: str,
    backend: str,
) -> None:
    classifier.models.current.provider = provider
    assert (await stub.ModelMetadata(pb.ModelMetadataRequest(name="vgg19"))).platform == platform
    config = (await stub.ModelConfig(pb.ModelConfigRequest(name="vgg19"))).config
    assert (config.platform, config.backend) == (platform, backend)


async def test_config_and_statistics(stub: GRPCInferenceServiceStub) -> None:
    config = (await stub.ModelConfig(pb.ModelConfigRequest(name="vgg19"))).config
    assert (config.name, config.max_batch_size) == ("vgg19", 4)
    await stub.ModelInfer(request(*IMAGES[:3]))
    with pytest.raises(grpc.aio.AioRpcError):
        await stub.ModelInfer(request(b"no image"))
    (counted,) = (await stub.ModelStatistics(pb.ModelStatisticsRequest())).model_stats
    assert (counted.version, counted.inference_count) == ("v1", 3)
    assert counted.inference_stats.success.count == 1
    assert counted.inference_stats.fail.count == 1
    with pytest.raises(grpc.aio.AioRpcError, match="not served here"):
        await stub.ModelStatistics(pb.ModelStatisticsRequest(name="resnet"))


async def answers(call: AsyncIterable[pb.ModelStreamInferResponse]) -> list[Any]:
    return [reply async for reply in call]


class TestStream:
    async def test_answers_come_in_order_and_an_error_is_one_of_them(
        self, stub: GRPCInferenceServiceStub, classifier: DataPlane, model: StubModel
    ) -> None:
        model.free.clear()
        images = [IMAGES[0], b"no image", *IMAGES[1:]]
        requests = []
        for number, image in enumerate(images):
            requests.append(request(image))
            requests[-1].id = str(number)
        asking = asyncio.create_task(answers(stub.ModelStreamInfer(iter(requests))))
        while classifier.models.current.batcher.queue_depth < 2:
            await asyncio.sleep(0.01)
        model.free.set()
        replies = await asking
        assert [reply.infer_response.id for reply in replies] == [str(n) for n in range(9)]
        assert replies[1].error_message.startswith("not an image")
        rows = [
            reply.infer_response.outputs[0].contents.fp32_contents
            for reply in replies
            if not reply.error_message
        ]
        np.testing.assert_allclose(rows, tiny_probabilities(PIXELS), atol=1e-6)
        assert len(model.batches) < 8  # they shared batches

    async def test_an_answer_does_not_wait_for_the_next_request(
        self, stub: GRPCInferenceServiceStub
    ) -> None:
        call = stub.ModelStreamInfer()
        for image in IMAGES[:3]:
            await call.write(request(image))
            reply = await asyncio.wait_for(call.read(), timeout=HANG_S)
            assert reply.infer_response.model_version == "v1"
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF  # type: ignore[attr-defined]  # not in the stubs

    async def test_more_than_the_window(self, stub: GRPCInferenceServiceStub) -> None:
        many = itertools.repeat(request(IMAGES[0]), 200)
        replies = [reply async for reply in stub.ModelStreamInfer(many)]
        assert len(replies) == 200
        # The queue holds 16; what came too early was refused, and nothing was lost.
        assert {bool(reply.error_message) for reply in replies} <= {False, True}
        assert all("waiting" in reply.error_message for reply in replies if reply.error_message)

    async def test_an_internal_error_ends_neither_the_stream_nor_the_secret(
        self, stub: GRPCInferenceServiceStub, model: StubModel
    ) -> None:
        model.error = RuntimeError("secret")
        (reply,) = [reply async for reply in stub.ModelStreamInfer(iter([request(IMAGES[0])]))]
        assert reply.error_message == "the server could not answer; see its log"

    async def test_a_client_that_goes_leaves_no_task_behind(
        self, stub: GRPCInferenceServiceStub, model: StubModel
    ) -> None:
        model.seconds = 0.05
        before = len(asyncio.all_tasks())
        call = stub.ModelStreamInfer()
        for _ in range(10):
            await call.write(request(IMAGES[0]))
        call.cancel()
        async with asyncio.timeout(HANG_S):
            while len(asyncio.all_tasks()) > before:
                await asyncio.sleep(0.02)


class TestRepository:
    async def test_without_an_admin_key_it_does_not_exist(
        self, stub: GRPCInferenceServiceStub
    ) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.RepositoryIndex(pb.RepositoryIndexRequest(), metadata=ADMIN)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED

    async def test_index_load_and_unload(self, classifier: DataPlane) -> None:
        keys = Keys([], hashlib.sha256(b"admin").hexdigest())
        async with (
            grpc_serving(context_of(classifier, keys=keys)) as address,
            grpc.aio.insecure_channel(address) as channel,
        ):
            stub = GRPCInferenceServiceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError, match="needs a key"):
                await stub.RepositoryIndex(pb.RepositoryIndexRequest())
            load = pb.RepositoryModelLoadRequest(model_name="vgg19")
            load.parameters["version"].string_param = "v2"
            await stub.RepositoryModelLoad(load, metadata=ADMIN)
            index = await stub.RepositoryIndex(pb.RepositoryIndexRequest(), metadata=ADMIN)
            assert {(m.version, m.state) for m in index.models} == {
                ("v1", "READY"), ("v2", "READY"), ("broken", "UNAVAILABLE"),
            }  # fmt: skip
            unload = pb.RepositoryModelUnloadRequest(model_name="vgg19")
            await stub.RepositoryModelUnload(unload, metadata=ADMIN)
            assert classifier.models.versions == ["v1"]
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.RepositoryModelUnload(unload, metadata=ADMIN)
            assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_the_request_id_comes_back(stub: GRPCInferenceServiceStub) -> None:
    call = stub.ModelInfer(request(IMAGES[0]), metadata=(("x-request-id", "abc-1"),))
    await call
    assert dict(await call.trailing_metadata())["x-request-id"] == "abc-1"


async def test_spans_continue_the_clients_trace(classifier: DataPlane) -> None:
    traced = Traced(classifier)
    async with (
        grpc_serving(traced.context) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        metadata = tuple(TRACEPARENT.items())
        await GRPCInferenceServiceStub(channel).ModelInfer(request(IMAGES[0]), metadata=metadata)
    check_spans(traced, "ModelInfer", "OK")


@pytest.mark.slow
async def test_5000_cancelled_calls_leave_nothing(
    stub: GRPCInferenceServiceStub, classifier: DataPlane, model: StubModel
) -> None:
    """Cancelled on their way, in decoding, waiting, running; objects of all kinds are counted."""
    model.seconds = 0.005
    large = encode(np.tile(coloured_pixels(1), (5, 5, 1)))

    async def cancel_many(count: int) -> Counter[str]:
        for number in range(0, count, 20):
            calls = [stub.ModelInfer(request(large)) for _ in range(20)]
            await asyncio.sleep(0.004 * (number // 20 % 10))
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
        await asyncio.sleep(0.2)
        gc.collect()
        return Counter(type(thing).__name__ for thing in gc.get_objects())

    await cancel_many(1000)
    before = await cancel_many(1000)
    after = await cancel_many(3000)
    grown = {name: after[name] - before[name] for name in after if after[name] > before[name] + 100}
    assert grown == {}
    current = classifier.models.current
    assert current.batcher.queue_depth == 0
    assert current.statistics.failed.count > 0  # given up inside the service, not before it
    images = current.statistics.images
    assert 0 < images < 4000  # many were dropped before the model saw them
    # Streams that are reset by the thousand make gRPC refuse one now and then; the next is well.
    for _ in range(5):
        with contextlib.suppress(grpc.aio.AioRpcError):
            await stub.ModelInfer(request(large))
            break
    assert current.statistics.images == images + 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asked", "key"),
    [
        (request(IMAGES[0]), "secret"),
        (request(IMAGES[0]), "wrong"),
        (request(b"no image"), "secret"),
        (request(IMAGES[0], b"no image"), "secret"),
        (request(IMAGES[0], model="resnet"), "secret"),
        (request(), "secret"),
    ],
    ids=["answered", "no key", "no image", "one image of two", "unknown model", "nothing"],
)
async def test_a_message_is_gone_with_its_call(
    classifier: DataPlane, asked: pb.ModelInferRequest, key: str
) -> None:
    """Without the garbage collector, which comes by the number of objects, not by their size."""
    context = context_of(classifier, keys=Keys([hashlib.sha256(b"secret").hexdigest()]))
    metadata = (("authorization", f"Bearer {key}"),)

    def messages() -> int:
        return sum(type(thing) is Message for thing in gc.get_objects())

    async with grpc_serving(context) as address, grpc.aio.insecure_channel(address) as channel:
        infer = GRPCInferenceServiceStub(channel).ModelInfer
        gc.collect()
        gc.disable()
        try:
            before = messages()
            for _ in range(5):
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await infer(asked, metadata=metadata)
            async with asyncio.timeout(HANG_S):
                while messages() > before:  # the server's side of a call ends after the client's
                    await asyncio.sleep(0.01)
        finally:
            gc.enable()


@pytest.mark.parametrize("way", ["call", "stream"])
async def test_messages_count_as_bodies_do(
    classifier: DataPlane, model: StubModel, way: str
) -> None:
    """A message that is answered holds its bytes, and another one has no room beside it."""
    asked = request(*IMAGES)
    bodies = InFlightBytes(int(1.5 * asked.ByteSize()))
    async with (
        grpc_serving(context_of(classifier, bodies=bodies)) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        stub = GRPCInferenceServiceStub(channel)

        async def ask() -> str:
            if way == "stream":
                (answer,) = [a async for a in stub.ModelStreamInfer(iter([asked]))]
                return str(answer.error_message)
            try:
                await stub.ModelInfer(asked)
            except grpc.aio.AioRpcError as error:
                return f"{error.code().name}: {error.details()}"
            return ""

        model.free.clear()
        first = asyncio.create_task(ask())
        async with asyncio.timeout(HANG_S):
            while not model.batches:
                await asyncio.sleep(0.01)
        assert bodies.held >= asked.ByteSize() - 100
        refused = await ask()
        assert "VGG19_MAX_INFLIGHT_BYTES" in refused
        assert refused.startswith("RESOURCE_EXHAUSTED") or way == "stream"
        model.free.set()
        assert await first == await ask() == ""
    assert bodies.held == 0


async def test_heat_maps(stub: GRPCInferenceServiceStub) -> None:
    asked = request(*IMAGES[:2])
    output = asked.outputs.add(name="heatmap")
    output.parameters["target"].string_param = "blue"
    (maps,) = (await stub.ModelInfer(asked)).outputs
    assert (maps.name, maps.datatype, list(maps.shape)) == ("heatmap", "FP32", [2, 4, 4])
    expected = np.stack([tiny_heat_map(pixels, 0) for pixels in PIXELS[:2]])
    values = np.reshape(maps.contents.fp32_contents, (2, 4, 4))
    np.testing.assert_allclose(values, expected, atol=1e-6)
    output.parameters["target"].string_param = "pink"
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await stub.ModelInfer(asked)
    assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "target is 'pink'" in (failed.value.details() or "")


async def test_accepted_and_distance(stub: GRPCInferenceServiceStub) -> None:
    asked = request(*IMAGES[:3])
    for name in ("accepted", "distance"):
        asked.outputs.add(name=name)
    accepted, distance = (await stub.ModelInfer(asked)).outputs
    distances = [stub_distance(pixels) for pixels in PIXELS[:3]]
    assert accepted.datatype == "BOOL"
    assert list(accepted.contents.bool_contents) == [
        bool(row.max() >= STUB_CONFIDENCE and distance <= 1)
        for row, distance in zip(tiny_probabilities(PIXELS[:3]), distances, strict=True)
    ]
    assert list(distance.contents.fp32_contents) == pytest.approx(distances)


def test_every_error_has_a_code() -> None:
    """Also one that no call raises today: it would be answered with INTERNAL and a traceback."""

    def kinds(kind: type[RequestError]) -> Iterator[type[RequestError]]:
        yield kind
        for sub in kind.__subclasses__():
            yield from kinds(sub)

    for kind in kinds(RequestError):
        if kind is not RequestError:
            assert _code(kind.__new__(kind)) in grpc.StatusCode, kind


async def test_heat_maps_of_several_labels(stub: GRPCInferenceServiceStub) -> None:
    asked = request(*IMAGES[:2])
    for label in ("green", "blue"):
        output = asked.outputs.add(name="heatmap")
        output.parameters["target"].string_param = label
    green, blue = (await stub.ModelInfer(asked)).outputs
    for output, index in ((green, 1), (blue, 0)):
        expected = np.stack([tiny_heat_map(pixels, index) for pixels in PIXELS[:2]])
        values = np.reshape(output.contents.fp32_contents, (2, 4, 4))
        np.testing.assert_allclose(values, expected, atol=1e-6)


async def test_a_bad_image_ends_the_request_before_the_model_runs(
    stub: GRPCInferenceServiceStub, model: StubModel
) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="image 1: not an image"):
        await stub.ModelInfer(request(IMAGES[0], b"no image"))
    assert model.batches == []


async def test_calls_without_tensors_are_small(stub: GRPCInferenceServiceStub) -> None:
    """Of two-byte elements, protobuf would make objects of thirty times their size."""
    large = pb.RepositoryModelLoadRequest(model_name="x" * 16_385)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.RepositoryModelLoad(large)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "the limit of this call is 16,384" in (caught.value.details() or "")
