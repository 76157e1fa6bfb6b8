"""A version that answers a part of the clients, and what is counted of both.

Promise: a client stays with one version while the percentage stands or rises, in every worker of
every replica, since all of them hash the same. Whom the canary can't answer as production would
(another image size, an output or a class that it lacks), production answers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from models.monitoring.canary_tests import Block, CanaryTally, Kind, Side, harm
from models.monitoring.two_sample import Stream
from models.registry.rollouts import Canary as DesiredCanary
from serving.core.dataplane import PixelRow
from serving.core.errors import RequestError
from serving.core.requests import InferRequest, InferResponse
from serving.core.served_model import ServedModel
from serving.observability.telemetry import current

# Production's first requests in a worker, of which the slowest tenth says what slow is.
_TIMES_NEEDED, _SLOW_SHARE = 200, 0.9


def share_of(identity: str, rollout: str) -> float:
    """Where a client lies, 0..100: it is the canary's while that is below the percentage. By the
    rollout's id, so that it isn't always the same clients who try what is new."""
    digest = hashlib.sha256(f"{rollout}\n{identity}".encode("utf-8", "backslashreplace")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 * 100


def identity_of(header: str) -> str:
    """Of whoever sent the present request: by a header if it has that, else by its key or else by
    its address."""
    record = current()
    if record is None:
        return ""
    return (record.headers.get(header) if header else None) or record.key or record.client


def cannot_stand_in(canary: ServedModel, production: ServedModel) -> str:
    """Why a model can't answer what production's clients ask; "": it can."""
    sizes = [model.spec.preprocessing.image_size for model in (canary, production)]
    if sizes[0] != sizes[1]:
        return f"its images have {sizes[0]} px, production's {sizes[1]}: clients may send pixels"
    lacking = set(production.spec.labels) - set(canary.spec.labels)
    if lacking:
        return f"it lacks the classes {', '.join(sorted(lacking)[:5])}"
    if canary.spec.labels[: len(production.spec.labels)] != production.spec.labels:
        return "its classes stand in another order: clients may read probabilities by their place"
    if production.has_distance and not canary.has_distance:
        return "it has no distances, and production has"
    if production.explainer is not None and canary.explainer is None:
        return "it makes no heat maps, and production does"
    return ""


class Canary:
    """One canary in one worker. Of one event loop.

    Args:
        model: the candidate, loaded.
        name: of this worker in its tally.
        alone_s: see `Traffic.alone_s`.
        count: called with a version, a kind, and how many of how many outcomes were of that kind.
    """

    def __init__(
        self,
        desired: DesiredCanary,
        model: ServedModel,
        name: str,
        alone_s: Callable[[], float],
        count: Callable[[str, str, int, int], None] = lambda version, kind, hits, count: None,
    ) -> None:
        self.desired = desired
        self._model = model
        self._alone_s = alone_s
        self._count = count
        self.tally = CanaryTally.of(name, desired.limits)
        self.tally.state = "running"
        self._block = Block()
        self._times: list[float] = []
        self._slow_s: float | None = None

    @property
    def is_taken_back(self) -> bool:
        """Here, whatever the store says of it by now."""
        return self.tally.state == "failed"

    def route(self, request: InferRequest, production: ServedModel) -> ServedModel:
        """Who answers a request that names no version."""
        desired = self.desired
        if self.is_taken_back or production.version != desired.against:
            return production
        if share_of(identity_of(desired.header), desired.id) >= desired.percent:
            return production
        return self._model

    def watch(self, answer: InferResponse, rows: Sequence[PixelRow], request: InferRequest) -> None:
        """Count an answer of either. One of a version that the client named isn't counted: whoever
        tries a canary by hand, or wants it gone, is no part of the clients."""
        side = self._side(answer.model)
        outputs = [output for output in answer.rows if not isinstance(output, RequestError)]
        if side is None or request.version or not outputs:  # none could be decoded
            return
        self.tally.count_answer(side)
        self._block.count(side, "failed", hit=False)
        # Of two runs beside each other both take longer, and of who has the fewer requests a larger
        # part is beside the other's: an equal canary of 5% was slow in 32% of its requests, against
        # production's 10% (a service at 30% of its capacity, simulated).
        inference_s = answer.timings.inference_s
        if self._alone_s() >= inference_s:
            self._count_time(side, inference_s / len(outputs))
        for output in outputs:
            self._block.count(side, "refused", hit=not answer.model.accepts(output))
            if output.distance is not None:
                self._block.count(side, "unfamiliar", hit=output.distance > 1)

    def watch_failure(self, model: ServedModel, error: BaseException) -> None:
        """Count a request without an answer, unless any model would have refused it: one client
        who sends broken images is not to take the canary back."""
        side = self._side(model)
        if side is not None and not (isinstance(error, RequestError) and error.is_clients):
            self._block.count(side, "failed", hit=True)

    def look(self, others: Sequence[CanaryTally]) -> None:
        """Test what came since the last look; take it back here if there is harm.

        Args:
            others: tallies of the other workers.
        """
        block, self._block = self._block, Block()
        self.tally.add(block)
        self._tell(self.desired.against, block.production)
        self._tell(self.desired.version, block.canary)
        everybody = [self.tally, *(one for one in others if one.worker != self.tally.worker)]
        if not self.is_taken_back and (why := harm(everybody, self.desired.limits)):
            self.tally.state, self.tally.reason = "failed", why

    def _count_time(self, side: Side, seconds: float) -> None:
        if self._slow_s is not None:
            self._block.count(side, "slow", hit=seconds > self._slow_s)
        elif side == "production":
            # Nothing is tested by the times that say what slow is.
            self._times.append(seconds)
            if len(self._times) >= _TIMES_NEEDED:
                self._slow_s = sorted(self._times)[int(_SLOW_SHARE * _TIMES_NEEDED)]
                self._times.clear()

    def _side(self, model: ServedModel) -> Side | None:
        """None: a third version."""
        if model is self._model:
            return "canary"
        return "production" if model.version == self.desired.against else None

    def _tell(self, version: str, outcomes: dict[Kind, Stream]) -> None:
        for kind, stream in outcomes.items():
            self._count(version, kind, stream.hits, stream.count)
