"""Who may ask, and how often: API keys, the admin key, and a rate limit for each client.

Keys are kept as SHA-256 and compared in constant time. They are long and random (`openssl rand -hex
32`), so a fast hash is enough.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from serving.core.errors import RateLimited, Unauthenticated

# Clients remembered at once; of the others, the one that was silent longest is forgotten, which
# gives it a full allowance.
_MAX_CLIENTS = 10_000


class Keys:
    """Checks bearer tokens.

    Args:
        api: SHA-256 (hex) of each key; none: everybody may ask.
        admin: SHA-256 (hex) of the admin key; empty: nobody may administer.
    """

    def __init__(self, api: Sequence[str] = (), admin: str = "") -> None:
        self._api = [digest.lower() for digest in api]
        self._admin = admin.lower()

    @property
    def has_admin(self) -> bool:
        return bool(self._admin)

    def check(self, authorization: str | None) -> str:
        """Check the value of an `Authorization` header; the admin key counts as an API key.

        Returns:
            whose request it is: the key's digest, or "" where no keys are asked for.

        Raises:
            Unauthenticated: there are keys, and this is none of them.
        """
        if not self._api:
            return ""
        return self._match(authorization, [*self._api, *filter(None, [self._admin])])

    def check_admin(self, authorization: str | None) -> None:
        """Raise Unauthenticated unless it is the admin key."""
        self._match(authorization, list(filter(None, [self._admin])))

    def _match(self, authorization: str | None, allowed: Sequence[str]) -> str:
        scheme, _, key = (authorization or "").partition(" ")
        digest = hashlib.sha256(key.strip().encode()).hexdigest()
        # All are compared, so that the time tells nothing.
        matches = [known for known in allowed if hmac.compare_digest(known, digest)]
        if scheme.lower() != "bearer" or not matches:
            raise Unauthenticated("this needs a key: send it as 'Authorization: Bearer KEY'")
        return matches[0]


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
