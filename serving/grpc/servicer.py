"""The RPCs of `inference.GRPCInferenceService`: converting and nothing else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, TypeAlias, TypeVar
from urllib.parse import unquote

import grpc

from protocol import open_inference_pb2 as pb
from protocol.open_inference_pb2_grpc import GRPCInferenceServiceServicer
from serving.admission.proxies import FORWARDED_FOR
from serving.context import ServiceContext
from serving.core.errors import (
    INTERNAL_ERROR,
    BadImage,
    BadRequest,
    Conflict,
    DeadlineExceeded,
    NotFound,
    Overloaded,
    RateLimited,
    RequestError,
    ShuttingDown,
    TooLarge,
    Unauthenticated,
    UnknownModel,
    UnsupportedMedia,
)
from serving.core.requests import Deadline
from serving.core.tensors import LARGE_ANSWER, answer_size
from serving.observability.telemetry import REQUEST_ID_HEADER, RequestRecord
from serving.open_inference import metadata as model_info
from serving.open_inference.protobuf_codec import (
    Message,
    read_message,
    read_request,
    write_response,
)

logger = logging.getLogger(__name__)

_CODES: dict[type[RequestError], grpc.StatusCode] = {
    BadImage: grpc.StatusCode.INVALID_ARGUMENT,
    BadRequest: grpc.StatusCode.INVALID_ARGUMENT,
    TooLarge: grpc.StatusCode.INVALID_ARGUMENT,
    UnsupportedMedia: grpc.StatusCode.INVALID_ARGUMENT,
    UnknownModel: grpc.StatusCode.NOT_FOUND,
    NotFound: grpc.StatusCode.UNIMPLEMENTED,
    Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    Conflict: grpc.StatusCode.FAILED_PRECONDITION,
    RateLimited: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ShuttingDown: grpc.StatusCode.UNAVAILABLE,
    DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
}
# Smaller messages are read in the event loop: within a few milliseconds, whatever is in them.
_LARGE_MESSAGE = 500_000
# Requests of one stream that are answered beside each other.
_STREAM_WINDOW = 64

# Of the calls whose messages hold tensors.
READERS = {"ModelInfer": read_message, "ModelStreamInfer": read_message}

T = TypeVar("T")
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"  # typed in the stubs only


class InferenceServicer(GRPCInferenceServiceServicer):
    """Answers for one service, whose model is loaded when this object exists."""

    def __init__(self, service: ServiceContext, server_version: str) -> None:
        self._service = service
        self._models = service.classifier.models
        self._limits = service.classifier.limits
        self._server_version = server_version

    async def ServerLive(  # noqa: N802
        self, request: pb.ServerLiveRequest, context: Context
    ) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=self._service.is_alive())

    async def ServerReady(  # noqa: N802
        self, request: pb.ServerReadyRequest, context: Context
    ) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._service.is_ready())

    async def ServerMetadata(  # noqa: N802
        self, request: pb.ServerMetadataRequest, context: Context
    ) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(**model_info.server_metadata(self._server_version))

    async def ModelReady(  # noqa: N802
        self, request: pb.ModelReadyRequest, context: Context
    ) -> pb.ModelReadyResponse:
        async def answer() -> pb.ModelReadyResponse:
            try:
                self._models.get(request.name, request.version)
            except UnknownModel:
                return pb.ModelReadyResponse(ready=False)
            return pb.ModelReadyResponse(ready=True)

        return await self._answered(context, "ModelReady", answer)

    async def ModelMetadata(  # noqa: N802
        self, request: pb.ModelMetadataRequest, context: Context
    ) -> pb.ModelMetadataResponse:
        async def answer() -> pb.ModelMetadataResponse:
            model = self._models.get(request.name, request.version)
            told = model_info.model_metadata(model, self._models.versions)
            return pb.ModelMetadataResponse(**told)

        return await self._answered(context, "ModelMetadata", answer)

    async def ModelConfig(  # noqa: N802
        self, request: pb.ModelConfigRequest, context: Context
    ) -> pb.ModelConfigResponse:
        async def answer() -> pb.ModelConfigResponse:
            model = self._models.get(request.name, request.version)
            return pb.ModelConfigResponse(config=pb.ModelConfig(**model_info.model_config(model)))

        return await self._answered(context, "ModelConfig", answer)

    async def ModelStatistics(  # noqa: N802
        self, request: pb.ModelStatisticsRequest, context: Context
    ) -> pb.ModelStatisticsResponse:
        async def answer() -> pb.ModelStatisticsResponse:
            models = self._models.find(request.name, request.version)
            return pb.ModelStatisticsResponse(**model_info.model_statistics(models))

        return await self._answered(context, "ModelStatistics", answer)

    async def ModelInfer(  # noqa: N802
        self, request: Message, context: Context
    ) -> pb.ModelInferResponse:
        deadline = self._limits.deadline(context.time_remaining())
        return await self._answered(context, "ModelInfer", partial(self._infer, request, deadline))

    async def ModelStreamInfer(  # noqa: N802
        self, request_iterator: AsyncIterator[Message], context: Context
    ) -> AsyncIterator[pb.ModelStreamInferResponse]:
        """Requests beside each other, so that they share batches; responses in their order."""
        pending: asyncio.Queue[asyncio.Task[pb.ModelStreamInferResponse] | None] = asyncio.Queue()
        window = asyncio.Semaphore(_STREAM_WINDOW)

        async def read() -> None:
            try:
                async for request in request_iterator:
                    await window.acquire()
                    task = asyncio.create_task(self._answer_of_stream(request, context))
                    pending.put_nowait(task)
            finally:
                pending.put_nowait(None)

        reader = asyncio.create_task(read())
        try:
            while (answering := await pending.get()) is not None:
                yield await answering
                window.release()
            await reader
        finally:  # the client is gone, or all is answered
            reader.cancel()
            while not pending.empty():
                if (left := pending.get_nowait()) is not None:
                    left.cancel()

    async def RepositoryIndex(  # noqa: N802
        self, request: pb.RepositoryIndexRequest, context: Context
    ) -> pb.RepositoryIndexResponse:
        async def answer() -> pb.RepositoryIndexResponse:
            entries = await self._service.repository.index(only_ready=request.ready)
            index = pb.RepositoryIndexResponse.ModelIndex
            return pb.RepositoryIndexResponse(models=[index(**vars(entry)) for entry in entries])

        return await self._answered(context, "RepositoryIndex", answer, admin=True)

    async def RepositoryModelLoad(  # noqa: N802
        self, request: pb.RepositoryModelLoadRequest, context: Context
    ) -> pb.RepositoryModelLoadResponse:
        async def answer() -> pb.RepositoryModelLoadResponse:
            await self._service.repository.load(request.model_name, _version(request))
            return pb.RepositoryModelLoadResponse()

        return await self._answered(context, "RepositoryModelLoad", answer, admin=True)

    async def RepositoryModelUnload(  # noqa: N802
        self, request: pb.RepositoryModelUnloadRequest, context: Context
    ) -> pb.RepositoryModelUnloadResponse:
        async def answer() -> pb.RepositoryModelUnloadResponse:
            await self._service.repository.unload(request.model_name, _version(request))
            return pb.RepositoryModelUnloadResponse()

        return await self._answered(context, "RepositoryModelUnload", answer, admin=True)

    async def _infer(self, message: Message, deadline: Deadline) -> pb.ModelInferResponse:
        bodies, size = self._service.bodies, len(message.data)
        bodies.check_room(size)
        bodies.held += size
        try:
            return await self._answer(message, deadline)
        finally:
            bodies.held -= size

    async def _answer(self, message: Message, deadline: Deadline) -> pb.ModelInferResponse:
        self._models.get(message.model, message.version)
        read = partial(read_request, message, self._limits, deadline)
        is_large = len(message.data) > _LARGE_MESSAGE
        request = await deadline.off_loop(read) if is_large else read()
        answer = await self._service.classifier.infer(request)
        write = partial(write_response, request, answer)
        is_large = answer_size(answer, request.outputs) > LARGE_ANSWER
        return await deadline.off_loop(write) if is_large else write()

    async def _answer_of_stream(
        self, request: Message, context: Context
    ) -> pb.ModelStreamInferResponse:
        """An error is an answer, too: the stream goes on."""
        deadline = self._limits.deadline(context.time_remaining())
        try:
            answer = partial(self._infer, request, deadline)
            response = await self._observed(context, "ModelStreamInfer", answer)
            return pb.ModelStreamInferResponse(infer_response=response)
        except RequestError as error:
            message = str(error)
        except Exception:
            logger.exception("a request of a stream failed")
            message = INTERNAL_ERROR
        unanswered = pb.ModelInferResponse(model_name=request.model, id=request.id)
        return pb.ModelStreamInferResponse(error_message=message, infer_response=unanswered)

    async def _answered(
        self,
        context: Context,
        operation: str,
        answer: Callable[[], Awaitable[T]],
        *,
        admin: bool = False,
    ) -> T:
        """Of every call but the probes; errors become status codes."""
        try:
            return await self._observed(context, operation, answer, admin=admin)
        except RequestError as error:
            await context.abort(_code(error), str(error))
        except Exception:
            logger.exception("an RPC failed")
            await context.abort(grpc.StatusCode.INTERNAL, INTERNAL_ERROR)

    async def _observed(
        self,
        context: Context,
        operation: str,
        answer: Callable[[], Awaitable[T]],
        *,
        admin: bool = False,
    ) -> T:
        """The answer to a request that is admitted; what becomes of it is noted.

        A coroutine, because each `with` around a generator takes a microsecond of the event loop.
        """
        sent = context.invocation_metadata() or ()
        metadata = {key: str(value) for key, value in sent}
        forwarded = [str(value) for key, value in sent if key == FORWARDED_FOR]
        address = self._service.client_address.of(_address(context.peer()), forwarded)
        with self._service.telemetry.observe("grpc", operation, metadata, address) as record:
            context.set_trailing_metadata(((REQUEST_ID_HEADER, record.request_id),))
            record.status = grpc.StatusCode.OK.name
            try:
                self._admit(record, metadata.get("authorization"), admin=admin)
                return await answer()
            except RequestError as error:
                record.status, record.outcome = _code(error).name, error.outcome
                raise
            except asyncio.CancelledError:  # also when the deadline of the call has passed
                record.status, record.outcome = grpc.StatusCode.CANCELLED.name, "cancelled"
                raise
            except Exception:
                record.status, record.outcome = grpc.StatusCode.INTERNAL.name, "error"
                raise

    def _admit(self, record: RequestRecord, authorization: str | None, *, admin: bool) -> None:
        if admin:
            self._service.admit_admin(authorization)
        else:
            record.key = self._service.admit(authorization, record.client)


def _address(peer: str) -> str:
    """Of gRPC's ipv4:127.0.0.1:50000 or ipv6:%5B::1%5D:50000, as HTTP has it."""
    host = peer.partition(":")[2].rpartition(":")[0]
    return unquote(host).strip("[]")


def _code(error: RequestError) -> grpc.StatusCode:
    return next(_CODES[kind] for kind in type(error).__mro__ if kind in _CODES)


def _version(
    request: pb.RepositoryModelLoadRequest | pb.RepositoryModelUnloadRequest,
) -> str:
    return (
        str(request.parameters["version"].string_param) if "version" in request.parameters else ""
    )
