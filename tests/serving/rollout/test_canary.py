"""A canary beside production, whose answers come from stubs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from models.bundle.acceptance import Acceptance
from models.monitoring.canary_tests import CanaryLimits, CanaryTally, evidence
from models.registry.rollouts import Canary as DesiredCanary
from serving.core.batcher import BatchFailed
from serving.core.dataplane import DataPlane
from serving.core.errors import RequestError
from serving.core.requests import InferRequest
from serving.engine.session import ModelOutput
from serving.rollout.canary import Canary, cannot_stand_in, share_of
from testing.bundles import tiny_spec
from testing.images import coloured_pixels
from tests.serving.conftest import StubModel, served, telemetry_of

PIXELS = coloured_pixels(0)[None]


def desired(percent: float, **changes: object) -> DesiredCanary:
    return DesiredCanary(version="v2", against="v1", steps=(percent, 100)).model_copy(
        update=changes
    )


async def canary_of(
    classifier: DataPlane, wanted: DesiredCanary, alone_s: float = math.inf
) -> Canary:
    model = await classifier.models.load("v2")
    canary = Canary(wanted, model, "worker", lambda: alone_s)
    classifier.watcher, classifier.router = canary.watch, canary.route
    classifier.failure_watcher = canary.watch_failure
    return canary


async def ask(classifier: DataPlane, client: str, transport: str = "http", key: str = "") -> str:
    """The version that answers a client."""
    headers = {"x-user": client}
    with telemetry_of().observe(transport, "infer", headers, "192.0.2.1") as record:
        record.key = key
        answer = await classifier.infer(InferRequest(pixels=PIXELS))
    return answer.model.version


async def test_clients_stay_where_they_are_while_the_percentage_rises(
    classifier: DataPlane,
) -> None:
    wanted = desired(20, header="x-user")
    canary = await canary_of(classifier, wanted)
    clients = [f"client {number}" for number in range(300)]
    chosen = {name for name in clients if await ask(classifier, name) == "v2"}
    assert 30 < len(chosen) < 90
    assert {name for name in clients if await ask(classifier, name, "grpc") == "v2"} == chosen
    canary.desired = wanted.model_copy(update={"steps": (50, 100)})
    more = {name for name in clients if await ask(classifier, name) == "v2"}
    assert chosen < more
    assert canary.tally.requests == 2 * len(chosen) + len(more)


async def test_a_key_counts_before_an_address_and_a_header_before_both(
    classifier: DataPlane,
) -> None:
    wanted = desired(50)
    canary = await canary_of(classifier, wanted)

    def expected(identity: str) -> str:
        return "v2" if share_of(identity, wanted.id) < 50 else "v1"

    for number in range(8):
        assert await ask(classifier, "x", key=f"key {number}") == expected(f"key {number}")
    assert await ask(classifier, "x") == expected("192.0.2.1")
    canary.desired = wanted.model_copy(update={"header": "x-user"})
    assert await ask(classifier, "a user", key="key") == expected("a user")


async def test_a_version_that_is_named_is_not_routed(classifier: DataPlane) -> None:
    await canary_of(classifier, desired(99.999))
    answer = await classifier.infer(InferRequest(pixels=PIXELS, version="v1"))
    assert answer.model.version == "v1"


@pytest.mark.parametrize("version", ["", "v2"])
async def test_what_a_client_does_wrong_or_tries_by_name_is_no_harm(
    classifier: DataPlane, version: str
) -> None:
    canary = await canary_of(classifier, desired(99.999))
    classifier.models.get("vgg19", "v2").acceptance = Acceptance(
        target_precision=0.9, min_confidence=None
    )
    for broken in (
        InferRequest(images=[b"no image"], version=version),
        InferRequest(images=[b"no image"], version=version, all_or_nothing=True),
        InferRequest(pixels=PIXELS[:, :16], version=version),
        *([InferRequest(pixels=PIXELS, version="v2")] if version else []),
    ):
        with suppress(RequestError):
            await classifier.infer(broken)
    canary.look([])
    assert canary.tally.requests == 0
    assert {one.canary.count for one in evidence([canary.tally], CanaryLimits())} == {0}


async def test_requests_that_fail_are_counted_and_are_no_answers(
    classifier: DataPlane, model: StubModel
) -> None:
    canary = await canary_of(classifier, desired(99.999))
    model.error = RuntimeError("no memory")
    for _ in range(3):
        with pytest.raises(BatchFailed):
            await classifier.infer(InferRequest(pixels=PIXELS))
    model.error = None
    await classifier.infer(InferRequest(pixels=PIXELS))
    canary.look([])
    failed = next(one for one in evidence([canary.tally], CanaryLimits()) if one.kind == "failed")
    assert (failed.canary.hits, failed.canary.count, canary.tally.requests) == (3, 4, 1)


async def ask_until_taken_back(
    classifier: DataPlane, canary: Canary, *failures: type[Exception]
) -> None:
    """400 requests at most, of which some may end with `failures`; after them production answers
    everybody."""
    for number in range(400):
        with suppress(*failures):
            await ask(classifier, f"client {number}")
        if number % 10 == 9:
            canary.look([])
        if canary.is_taken_back:
            break
    assert canary.is_taken_back
    assert {await ask(classifier, f"client {number}") for number in range(20)} == {"v1"}


async def test_harm_takes_it_back(classifier: DataPlane) -> None:
    """A canary that refuses all that production accepts."""
    canary = await canary_of(classifier, desired(50, header="x-user"))
    classifier.models.get("vgg19", "v2").acceptance = Acceptance(
        target_precision=0.9, min_confidence=None
    )
    await ask_until_taken_back(classifier, canary)
    assert "refused: " in canary.tally.reason
    assert "unfamiliar" not in canary.tally.reason


class Unfamiliar(StubModel):
    """All images are far from those that it was trained on."""

    def judge(self, images: Sequence[NDArray[np.uint8]]) -> list[ModelOutput]:
        return [replace(output, distance=5.0) for output in super().judge(images)]


@pytest.mark.parametrize("kind", ["failed", "unfamiliar"])
async def test_a_worse_model_is_taken_back(classifier: DataPlane, kind: str) -> None:
    worse = Unfamiliar() if kind == "unfamiliar" else StubModel()
    worse.error = RuntimeError("no memory") if kind == "failed" else None
    canary = await canary_of(classifier, desired(50, header="x-user"))
    classifier.models.get("vgg19", "v2").batcher = served("v2", worse).batcher
    await ask_until_taken_back(classifier, canary, *([BatchFailed] if kind == "failed" else []))
    assert f"{kind}: " in canary.tally.reason


async def test_a_canary_like_production_stays(classifier: DataPlane) -> None:
    canary = await canary_of(classifier, desired(50, header="x-user"))
    for number in range(300):
        await ask(classifier, f"client {number}")
        canary.look([])
    assert not canary.is_taken_back
    found = {one.kind: one for one in evidence([canary.tally], CanaryLimits())}
    assert found["failed"].production.count + found["failed"].canary.count == 300
    assert found["unfamiliar"].canary.count == canary.tally.requests


@pytest.mark.parametrize(("alone_s", "counts"), [(math.inf, True), (0.0, False)])
async def test_only_times_with_nothing_beside_them_are_compared(
    classifier: DataPlane, alone_s: float, counts: bool
) -> None:
    canary = await canary_of(classifier, desired(50, header="x-user"), alone_s)
    for number in range(450):
        await ask(classifier, f"client {number}")
    canary.look([])
    found = {one.kind: one for one in evidence([canary.tally], CanaryLimits())}
    assert (found["slow"].production.count > 0) == counts
    assert (found["slow"].canary.count > 0) == counts


async def test_evidence_of_other_workers_counts(classifier: DataPlane) -> None:
    canary = await canary_of(classifier, desired(50))
    other = CanaryTally.of("other", CanaryLimits())
    other.tests["failed"].log_e = CanaryLimits().threshold
    canary.look([other])
    assert canary.is_taken_back


def test_who_can_stand_in() -> None:
    spec = tiny_spec()
    small = spec.preprocessing.model_copy(update={"image_size": 16})
    cases = [
        (served("v2", StubModel()), ""),
        (served("v2", StubModel(), explains=False), "it makes no heat maps"),
        (
            served("v2", StubModel(), spec.model_copy(update={"labels": ("blue", "red")})),
            "it lacks the classes green",
        ),
        (
            served("v2", StubModel(), spec.model_copy(update={"labels": spec.labels[::-1]})),
            "its classes stand in another order",
        ),
        (served("v2", StubModel(), spec.model_copy(update={"labels": (*spec.labels, "x")})), ""),
        (
            served("v2", StubModel(), spec.model_copy(update={"preprocessing": small})),
            "its images have 16 px, production's 32",
        ),
    ]
    production = served("v1", StubModel())
    for canary, why in cases:
        assert cannot_stand_in(canary, production)[: len(why) or None] == why
