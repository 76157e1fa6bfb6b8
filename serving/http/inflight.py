"""Bodies are counted as they come (`serving.core.inflight`), decoded where they were compressed.

Promise: from the first byte of a body until its request is answered, it counts; what would be more
than the limit is refused at once, before it is read. Nothing is written to disk
(`serving.http.form`), so this bounds both.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.core.inflight import InFlightBytes


class InFlightBodies:
    """An ASGI middleware that counts bodies as they come, by `app.state.context.bodies`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        bodies: InFlightBytes = scope["app"].state.context.bodies
        for name, value in scope["headers"]:
            # Not taken yet: who sends nothing holds nothing. What never has room is refused by its
            # route, as too large.
            if name == b"content-length" and value.isdigit() and len(value) < 20:
                size = int(value)
                if size <= bodies.limit:
                    bodies.check_room(size)
        taken = 0

        async def receive_and_count() -> Message:
            nonlocal taken
            message = await receive()
            size = len(message.get("body", b""))
            bodies.check_room(size)
            bodies.held += size
            taken += size
            return message

        try:
            await self._app(scope, receive_and_count, send)
        finally:
            bodies.held -= taken
