"""What the page shows of production: `GET /overview`, and the way back, `POST /rollback`."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from serving.context import ServiceContext
from serving.core.errors import BadRequest
from serving.core.pool import ModelPool
from serving.engine.providers import device_name
from serving.http.body import json_object
from serving.http.overview_schema import (
    DifferingImage,
    DifferingReply,
    OverviewReply,
    Promoted,
    RollbackReply,
    ServedNow,
    TrafficCounts,
)
from serving.observability.production import Record
from serving.observability.traffic import Traffic, traffic

OVERVIEW, DIFFERING, ROLLBACK = "/overview", "/overview/differing", "/rollback"
# Behind the admin key, and not there without one: clients' images, and what changes production.
ADMIN = frozenset({DIFFERING, ROLLBACK})
_HISTORY = 50
_MAX_VERSION = 100


def routes() -> list[Route]:
    return [
        Route(OVERVIEW, overview),
        Route(DIFFERING, differing),
        Route(ROLLBACK, rollback, methods=["POST"]),
    ]


async def overview(request: Request) -> Response:
    """`GET /overview`: which model serves since when, traffic, history."""
    context: ServiceContext = request.app.state.context
    record = await context.production.record()
    counts = await asyncio.to_thread(traffic)
    return _json(
        OverviewReply(
            model=_served_now(context.classifier.models, record),
            traffic=_counts(counts),
            history=[
                Promoted(**promotion.model_dump(include={"version", "at", "why", "replaced"}))
                for promotion in record.promotions[:_HISTORY]
            ],
            rollback_to=record.rollback_to,
            drift=context.drift is not None,
            shadow=record.shadow,
            canary=record.canary,
            administered=context.keys.has_admin,
            reviews=_has_reviews(context, request.headers.get("authorization")),
        )
    )


async def differing(request: Request) -> Response:
    """`GET /overview/differing`: images on which production and its shadow differ; behind the admin
    key, as they are clients' own."""
    context: ServiceContext = request.app.state.context
    found = await context.production.differing()
    return _json(
        DifferingReply(images=[DifferingImage(**picture.model_dump()) for picture in found])
    )


async def rollback(request: Request) -> Response:
    """`POST /rollback` with the `version` that is in production, behind the admin key."""
    context: ServiceContext = request.app.state.context
    version = (await json_object(request)).get("version")
    if not isinstance(version, str) or not 0 < len(version) <= _MAX_VERSION:
        raise BadRequest("'version' must be the version that is in production")
    return _json(RollbackReply(version=await context.production.roll_back(version)))


def _has_reviews(context: ServiceContext, authorization: str | None) -> bool:
    return context.review is not None and context.keys.may_administer(authorization)


def _served_now(models: ModelPool, record: Record) -> ServedNow:
    served, failed = models.current, models.failed
    present = record.promotions[0] if record.promotions else None
    held_out: dict[str, Any] = served.metrics.get("held_out", {})
    return ServedNow(
        name=served.name,
        version=served.version,
        since=present.at if present is not None and present.version == served.version else None,
        classes=len(served.spec.labels),
        device=device_name(served.provider),
        accuracy=held_out.get("accuracy"),
        problems=[f"{failed.desired.version} can't be loaded: {failed.reason}"] if failed else [],
    )


def _counts(found: Traffic) -> TrafficCounts:
    median_s, p99_s = found.quantile_s(0.5), found.quantile_s(0.99)
    return TrafficCounts(
        requests=sum(found.outcomes.values()),
        outcomes=dict(sorted(found.outcomes.items())),
        accepted=found.accepted[True],
        not_accepted=found.accepted[False],
        median_ms=None if median_s is None else 1000 * median_s,
        p99_ms=None if p99_s is None else 1000 * p99_s,
    )


def _json(content: OverviewReply | DifferingReply | RollbackReply) -> JSONResponse:
    return JSONResponse(content.model_dump(mode="json"), headers={"Cache-Control": "no-store"})
