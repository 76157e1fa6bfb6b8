"""gRPC: `inference.GRPCInferenceService` on grpc.aio, converting and nothing else."""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import grpc

from models.errors import UserError
from serving import open_inference
from serving.access import Keys, RateLimit
from serving.classifier import Classifier
from serving.errors import (
    BadImage,
    BadRequest,
    Conflict,
    DeadlineExceeded,
    Overloaded,
    RateLimited,
    RequestError,
    ShuttingDown,
    TooLarge,
    Unauthenticated,
    UnknownModel,
)
from serving.proto import open_inference_pb2 as pb
from serving.proto.open_inference_pb2_grpc import (
    GRPCInferenceServiceServicer,
    add_GRPCInferenceServiceServicer_to_server,
)

logger = logging.getLogger(__name__)

_CODES: dict[type[RequestError], grpc.StatusCode] = {
    BadImage: grpc.StatusCode.INVALID_ARGUMENT,
    BadRequest: grpc.StatusCode.INVALID_ARGUMENT,
    TooLarge: grpc.StatusCode.INVALID_ARGUMENT,
    UnknownModel: grpc.StatusCode.NOT_FOUND,
    Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    Conflict: grpc.StatusCode.FAILED_PRECONDITION,
    RateLimited: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ShuttingDown: grpc.StatusCode.UNAVAILABLE,
    DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
}


Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"  # typed in the stubs only


class GrpcServerError(UserError):
    """The gRPC server can't start."""


class InferenceServicer(GRPCInferenceServiceServicer):
    """Answers for one classifier, which is ready when this object exists."""

    def __init__(
        self,
        classifier: Classifier,
        server_version: str,
        *,
        keys: Keys,
        rate_limit: RateLimit,
        is_ready: Callable[[], bool],
    ) -> None:
        self._classifier = classifier
        self._server_version = server_version
        self._keys = keys
        self._rate_limit = rate_limit
        self._is_ready = is_ready

    async def ServerLive(  # noqa: N802
        self, request: pb.ServerLiveRequest, context: Context
    ) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(  # noqa: N802
        self, request: pb.ServerReadyRequest, context: Context
    ) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._is_ready())

    async def ModelReady(  # noqa: N802
        self, request: pb.ModelReadyRequest, context: Context
    ) -> pb.ModelReadyResponse:
        async with self._answering(context):
            try:
                self._classifier.models.get(request.name, request.version)
            except UnknownModel:
                return pb.ModelReadyResponse(ready=False)
            return pb.ModelReadyResponse(ready=True)

    async def ServerMetadata(  # noqa: N802
        self, request: pb.ServerMetadataRequest, context: Context
    ) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(
            name=open_inference.SERVER_NAME, version=self._server_version
        )

    async def ModelMetadata(  # noqa: N802
        self, request: pb.ModelMetadataRequest, context: Context
    ) -> pb.ModelMetadataResponse:
        async with self._answering(context):
            models = self._classifier.models
            model = models.get(request.name, request.version)
            return open_inference.model_metadata(model.name, models.versions, model.spec)

    async def ModelInfer(  # noqa: N802
        self, request: pb.ModelInferRequest, context: Context
    ) -> pb.ModelInferResponse:
        async with self._answering(context):
            self._classifier.models.get(request.model_name, request.model_version)
            outputs = open_inference.requested_outputs(request)
            answer = await open_inference.classify(
                self._classifier, request, request.model_version, context.time_remaining()
            )
            return open_inference.infer_response(request, answer, outputs)

    @asynccontextmanager
    async def _answering(self, context: Context) -> AsyncIterator[None]:
        """Around every call but the probes: who asks, how often, and errors as status codes."""
        try:
            metadata = dict(context.invocation_metadata() or ())
            address = context.peer().rpartition(":")[0]  # ipv4:127.0.0.1:50000
            self._rate_limit.check(self._keys.check(metadata.get("authorization")) or address)
            yield
        except RequestError as error:
            code = next(_CODES[kind] for kind in type(error).__mro__ if kind in _CODES)
            await context.abort(code, str(error))
        except Exception:
            logger.exception("an RPC failed")
            await context.abort(
                grpc.StatusCode.INTERNAL, "the server could not answer; see its log"
            )


def check_port(host: str, port: int) -> None:
    """Raise GrpcServerError if the address can't be bound now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host, port), family=family):
            pass
    except (OSError, OverflowError) as error:
        raise _cannot_listen(host, port, str(error)) from None


async def start_server(
    servicer: InferenceServicer, host: str, port: int, max_message_bytes: int
) -> grpc.aio.Server:
    """Start serving; port 0 takes a free one.

    Raises:
        GrpcServerError: the address can't be bound.
    """
    options = [
        ("grpc.max_receive_message_length", max_message_bytes),
        # On by default: a second service on the same port would silently take half the calls.
        ("grpc.so_reuseport", 0),
    ]
    server = grpc.aio.server(options=options)
    add_GRPCInferenceServiceServicer_to_server(servicer, server)
    try:
        address = f"[{host}]" if ":" in host else host
        bound = server.add_insecure_port(f"{address}:{port}")
    except RuntimeError as error:
        raise _cannot_listen(host, port, "see the log") from error
    await server.start()
    logger.info("gRPC listens on %s:%d", host, bound)
    return server


def _cannot_listen(host: str, port: int, reason: str) -> GrpcServerError:
    return GrpcServerError(
        f"gRPC can't listen on {host}:{port} ({reason}); choose another VGG19_GRPC_PORT"
    )
