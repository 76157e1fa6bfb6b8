"""What both transports stand on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from review.desk import Desk
from serving.admission.api_keys import Keys
from serving.admission.proxies import ClientAddress
from serving.admission.rate_limit import RateLimit
from serving.core.dataplane import DataPlane
from serving.core.errors import NotFound
from serving.core.inflight import InFlightBytes
from serving.observability.capture import Capture
from serving.observability.drift import DriftMonitor
from serving.observability.production import Production
from serving.observability.telemetry import Telemetry
from serving.open_inference.repository import Repository


@dataclass(frozen=True)
class ServiceContext:
    """One service, as its transports see it.

    Args:
        is_ready: whether requests should be sent here.
        is_alive: False when only a new start can help.
        bodies: counts what the requests' bodies hold.
        on_label: called with request id, place of an image in its request and its right label, when
            somebody has told that.
        production: what the store says of production.
        review: of captured images, for the page of reviews; None: there is none.
        review_hosts: names that this page is reached by, in lower case.
    """

    classifier: DataPlane
    repository: Repository
    keys: Keys
    rate_limit: RateLimit
    telemetry: Telemetry
    is_ready: Callable[[], bool]
    is_alive: Callable[[], bool] = lambda: True
    client_address: ClientAddress = field(default_factory=ClientAddress)
    bodies: InFlightBytes = field(default_factory=InFlightBytes)
    on_label: Callable[[str, int, str], None] = lambda request_id, index, label: None
    production: Production = field(default_factory=Production)
    review: Desk | None = None
    review_hosts: frozenset[str] = frozenset()

    @property
    def capture(self) -> Capture | None:
        """Where feedback goes; None: nothing is kept, so there is no feedback."""
        return self.telemetry.capture

    @property
    def drift(self) -> DriftMonitor | None:
        """What compares answers with the reference; None: nothing does."""
        return self.telemetry.drift

    def admit(self, authorization: str | None, address: str) -> str:
        """Whose request it is: its key's digest, or "" where no keys are asked for.

        Args:
            address: of the client, which counts for the rate limit if there are no keys.

        Raises:
            Unauthenticated, RateLimited
        """
        key = self.keys.check(authorization)
        self.rate_limit.check(key or address)
        return key

    def admit_admin(self, authorization: str | None) -> None:
        """Raise NotFound where no admin key is set, Unauthenticated if this isn't it."""
        if not self.keys.has_admin:
            raise NotFound("Not Found")
        self.keys.check_admin(authorization)
