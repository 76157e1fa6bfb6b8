"""Messages that are none, or too large: gRPC itself would answer UNKNOWN with the name of a Python
class, and log a traceback for each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from serving.core.errors import RequestError, TooLarge
from serving.open_inference.wire import Malformed

# Of all messages but those with tensors: names, versions, a few parameters. protobuf makes objects
# of a message in the event loop, up to thirty times its size.
_MAX_SMALL_BYTES = 16_384


class CheckedServer:
    """To register services with: their calls get only what could be parsed, and the client of the
    rest is told INVALID_ARGUMENT.

    Args:
        readers: parse the messages of these methods, in place of protobuf.
    """

    def __init__(
        self, server: grpc.aio.Server, readers: Mapping[str, Callable[[bytes], Any]]
    ) -> None:
        self._server = server
        self._readers = readers

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Called by generated code before the next one, with the same handlers."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        checked = {
            name: _checked(handler, self._readers.get(name) or _small(handler.request_deserializer))
            for name, handler in handlers.items()
        }
        generic = grpc.method_handlers_generic_handler(service, checked)
        self._server.add_generic_rpc_handlers((generic,))


def _small(parse: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def parse_small(data: bytes) -> Any:
        if len(data) > _MAX_SMALL_BYTES:
            raise TooLarge(
                f"the message has {len(data):,} bytes, the limit of this call is "
                f"{_MAX_SMALL_BYTES:,}"
            )
        return parse(data)

    return parse_small


def _checked(handler: Any, parse: Callable[[bytes], Any]) -> Any:
    def parse_or_error(data: bytes) -> Any:
        try:
            return parse(data)
        except DecodeError:
            return Malformed()
        except RequestError as error:
            return error

    async def refuse(context: Any, error: RequestError) -> None:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))

    async def answer(request: Any, context: Any) -> Any:
        try:
            if isinstance(request, RequestError):
                await refuse(context, request)
            return await (handler.unary_unary or handler.unary_stream)(request, context)
        except (grpc.aio.AbortError, asyncio.CancelledError) as error:
            # The context keeps this error, and frames of its traceback keep the context and the
            # request, until the garbage collector comes, which counts objects and not their bytes:
            # twelve refused messages of 100 MB held 1.1 GB.
            if error.__context__ is not None:
                error.__context__.__traceback__ = None
            error.__traceback__ = error.__context__ = None
            del request
            raise

    async def answer_stream(requests: AsyncIterator[Any], context: Any) -> Any:
        refused: RequestError | None = None

        async def parsed() -> AsyncIterator[Any]:
            nonlocal refused
            async for request in requests:
                if isinstance(request, RequestError):
                    refused = request
                    return
                yield request

        async for reply in handler.stream_stream(parsed(), context):
            yield reply
        if refused is not None:  # what came before is answered
            await refuse(context, refused)

    return handler._replace(
        request_deserializer=parse_or_error,
        unary_unary=handler.unary_unary and answer,
        unary_stream=handler.unary_stream and answer,  # a coroutine that writes, as health's is
        stream_stream=handler.stream_stream and answer_stream,
    )
