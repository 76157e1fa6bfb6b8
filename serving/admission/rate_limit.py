"""How often a client may ask."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from serving.core.errors import RateLimited

# Clients remembered at once; of the others, the one that was silent longest is forgotten, which
# gives it a full allowance.
_MAX_CLIENTS = 10_000


class RateLimit:
    """A token bucket for each client.

    Args:
        per_second: requests that a client may make in the long run; 0: any number.
        burst: requests that it may make at once.
    """

    def __init__(
        self, per_second: float, burst: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_second = per_second
        self._burst = burst
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def check(self, client: str) -> None:
        """Count a request of a client.

        Raises:
            RateLimited: it has made too many.
        """
        if not self._per_second:
            return
        now = self._clock()
        tokens, at = self._buckets.pop(client, (float(self._burst), now))
        tokens = min(self._burst, tokens + (now - at) * self._per_second)
        allowed = tokens >= 1
        self._buckets[client] = (tokens - 1 if allowed else tokens, now)
        if len(self._buckets) > _MAX_CLIENTS:
            self._buckets.popitem(last=False)
        if not allowed:
            raise RateLimited(
                f"more than {self._per_second:g} requests a second (VGG19_RATE_LIMIT); slow down",
                retry_after_s=(1 - tokens) / self._per_second,
            )
