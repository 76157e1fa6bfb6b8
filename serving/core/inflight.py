"""How many bytes of bodies are held at once, by all requests together."""

from __future__ import annotations

from serving.core.errors import NoRoomForBody

MAX_INFLIGHT_BYTES = 512_000_000


class InFlightBytes:
    """Counts. Belongs to one event loop."""

    def __init__(self, limit: int = MAX_INFLIGHT_BYTES) -> None:
        self.limit = limit
        self.held = 0

    def check_room(self, size: int) -> None:
        """Raise NoRoomForBody if there is no room for so many more."""
        if self.held + size > self.limit:
            raise NoRoomForBody(
                f"requests of {self.held:,} bytes are in flight, the limit is {self.limit:,} "
                "(VGG19_MAX_INFLIGHT_BYTES); try again later"
            )
