"""Messages that are none: gRPC itself would answer UNKNOWN with the name of a Python class, and log
a traceback for each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import grpc
from google.protobuf.message import DecodeError

_MALFORMED = "the request is no message of this call; the server's reflection describes what is"


class CheckedServer:
    """To register services with: their calls get only what could be parsed, and the client of the
    rest is told INVALID_ARGUMENT."""

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Called by generated code before the next one, with the same handlers."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        checked = {name: _checked(handler) for name, handler in handlers.items()}
        generic = grpc.method_handlers_generic_handler(service, checked)
        self._server.add_generic_rpc_handlers((generic,))


def _checked(handler: Any) -> Any:
    parse: Callable[[bytes], Any] = handler.request_deserializer

    def parse_or_none(data: bytes) -> Any:
        try:
            return parse(data)
        except DecodeError:
            return None

    async def refuse(context: Any) -> None:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, _MALFORMED)

    async def answer(request: Any, context: Any) -> Any:
        if request is None:
            await refuse(context)
        return await (handler.unary_unary or handler.unary_stream)(request, context)

    async def answer_stream(requests: AsyncIterator[Any], context: Any) -> Any:
        is_whole = True

        async def parsed() -> AsyncIterator[Any]:
            nonlocal is_whole
            async for request in requests:
                if request is None:
                    is_whole = False
                    return
                yield request

        async for reply in handler.stream_stream(parsed(), context):
            yield reply
        if not is_whole:  # what came before is answered
            await refuse(context)

    return handler._replace(
        request_deserializer=parse_or_none,
        unary_unary=handler.unary_unary and answer,
        unary_stream=handler.unary_stream and answer,  # a coroutine that writes, as health's is
        stream_stream=handler.stream_stream and answer_stream,
    )
