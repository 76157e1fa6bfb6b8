"""Everything that one worker process runs, put together and taken apart."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from opentelemetry import trace

from models.errors import StoreError
from models.events import config as events_config
from models.registry import store
from serving import __version__
from serving.admission.proxies import ClientAddress
from serving.admission.rate_limit import RateLimit
from serving.context import ServiceContext
from serving.core.dataplane import DataPlane
from serving.core.decode_budget import DecodeBudget
from serving.core.inflight import InFlightBytes
from serving.core.looker import Looker
from serving.core.pool import ModelPool
from serving.core.requests import InferRequest
from serving.core.supervisor import Supervisor
from serving.engine.memory import freeze_gc, trim_between_requests
from serving.engine.right_of_way import Traffic
from serving.grpc.server import GrpcServer
from serving.grpc.servicer import InferenceServicer
from serving.http.classify import reply_content
from serving.loading import desired_version, load_model, session_options, use_store, worker_cores
from serving.observability.events import Events, HealthEvents
from serving.observability.metrics import Metrics
from serving.observability.production import Production
from serving.observability.telemetry import Telemetry, access_logger
from serving.open_inference.repository import Repository
from serving.parts import (
    decode_limits,
    grpc_options,
    key_source,
    make_capture,
    make_drift_monitor,
    make_review,
    request_limits,
    shadow_options,
)
from serving.reloading import FileWatch, Reloadable
from serving.rollout.watch import WATCH as ROLLOUT_WATCH
from serving.rollout.watch import RolloutWatch
from serving.settings import Settings

logger = logging.getLogger(__name__)

# By what name it is logged and counted.
_WATCH = "the watch over promotions"
# A look at the store is one small file read; one that takes longer hangs, as network storage can.
_LOOK_S = 30.0
_DRIFT, _DRIFT_EVERY_S = "drift", 5.0
# After failures; short, since a promotion that repairs the store is to be noticed.
_MAX_WATCH_PAUSE_S = 8.0
_MIN_CAPTURE_GRACE_S, _MAX_CAPTURE_GRACE_S = 0.5, 5.0


class Runtime:
    """The models with their decoders, the gRPC server, and the watch over what is promoted. Made by
    `start`."""

    def __init__(
        self,
        settings: Settings,
        models: ModelPool,
        telemetry: Telemetry,
        supervisor: Supervisor | None = None,
        http_tls: Reloadable | None = None,
        traffic: Traffic | None = None,
        events: Events | None = None,
        worker_index: int = 1,
    ) -> None:
        self._settings = settings
        self._supervisor = supervisor or Supervisor()
        self._events = events or Events(None, lambda work: None)
        self._health = HealthEvents(self._events, worker_index)
        self._announced: object = None
        self._grpc: GrpcServer | None = None
        # Before anything is read, so that no change falls between.
        self._file_watch = FileWatch(self._reloadables(http_tls), settings.watch_interval_s)
        self._models = models
        threads = settings.decode_threads or worker_cores(settings)
        self._decoders = DecodeBudget(threads, decode_limits(settings))
        classifier = DataPlane(
            models, self._decoders, request_limits(settings), telemetry.on_answer,
            measures=telemetry.drift is not None,
        )  # fmt: skip
        self._rollouts = RolloutWatch(
            classifier,
            traffic or Traffic(),
            shadow_options(settings, worker_index),
            telemetry.metrics,
            self._supervisor,
        )
        self._review = make_review(settings, models, self._supervisor)
        self.context = ServiceContext(
            classifier=classifier,
            repository=Repository(
                models, _registered_versions, self._follow, shared=settings.workers > 1
            ),
            keys=key_source(settings).read(),
            rate_limit=RateLimit(settings.rate_limit, settings.rate_limit_burst),
            telemetry=telemetry,
            is_ready=lambda: self.ready,
            is_alive=lambda: self.alive,
            client_address=ClientAddress(settings.proxies),
            bodies=InFlightBytes(settings.max_inflight_bytes),
            on_label=self._rollouts.add_label,
            production=Production(self._events.announce),
            review=self._review,
            review_hosts=settings.review_names,
        )
        self._stopping = False
        self._was_ready = True
        self._store = Looker("watch", partial(desired_version, settings), _LOOK_S, _no_answer)
        self._watch = asyncio.create_task(
            self._supervisor.repeat(
                _WATCH,
                self._follow,
                settings.watch_interval_s,
                self._tell_health,
                _MAX_WATCH_PAUSE_S,
            )
        )
        self._watch_rollouts = asyncio.create_task(
            self._supervisor.repeat(ROLLOUT_WATCH, self._rollouts.follow, settings.watch_interval_s)
        )
        self._watch_files = asyncio.create_task(self._file_watch.run())
        if telemetry.drift is not None:
            telemetry.drift.adopt(models.current)  # before the first request
        self._watch_drift = asyncio.create_task(
            self._supervisor.repeat(_DRIFT, self._follow_drift, _DRIFT_EVERY_S)
        )

    @classmethod
    async def start(
        cls,
        settings: Settings,
        worker_index: int,
        tracer: trace.Tracer | None,
        http_tls: Reloadable | None = None,
    ) -> Runtime:
        """Load the model, replay its golden samples, warm it up, then listen on gRPC.

        Args:
            worker_index: of the BentoML worker, from 1.
            tracer: for the spans of requests; None: there are none.
            http_tls: the certificate of HTTPS; None: another one's, or there is none.

        Raises:
            UserError: what was asked for can't be served; the message says why.
        """
        freeze_gc()
        use_store(settings)
        metrics = Metrics()
        supervisor = Supervisor(metrics.count_background_failure)
        options = session_options(settings, worker_index)
        traffic = Traffic()
        load = partial(load_model, settings, options, metrics, supervisor, traffic)
        models = ModelPool(
            load,
            grace_s=settings.shutdown_grace_s,
            on_reload=metrics.count_reload,
            trim=partial(trim_between_requests, traffic),
        )
        await models.follow(desired_version(settings))
        write = access_logger() if settings.access_log else None
        capture, drift = make_capture(settings, supervisor), make_drift_monitor(settings)
        telemetry = Telemetry(metrics, write, tracer, capture, drift)
        events = Events(events_config.from_environment(), metrics.count_background_failure)
        runtime = cls(
            settings, models, telemetry, supervisor, http_tls, traffic, events, worker_index
        )
        runtime._grpc = await GrpcServer.start(
            InferenceServicer(runtime.context, __version__), grpc_options(settings)
        )
        return runtime

    @property
    def ready(self) -> bool:
        """Whether requests should be sent here."""
        is_stale = self._models.failed is not None or bool(self._supervisor.failing)
        return not self._stopping and not (is_stale and not self._settings.ready_while_stale)

    @property
    def alive(self) -> bool:
        """Whether inference and heat maps come to an end. A hanging one can't be interrupted."""
        return self._models.running_s < self._settings.session_timeout_s

    async def classify_file(self, image: Path, top_k: int, threshold: float) -> dict[str, Any]:
        """The body of an answer to `/classify` for one image file.

        Raises:
            RequestError: see `DataPlane.infer`; BadImage if it can't be decoded.
        """
        content = await asyncio.to_thread(image.read_bytes)
        answer = await self.context.classifier.infer(InferRequest(images=[content]))
        return reply_content(answer, [image.name], top_k, threshold)

    async def stop(self) -> None:
        """Finish what was accepted, within the grace period, and end."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.shutdown_grace_s
        self._stopping = True
        self._watch.cancel()
        self._store.close()
        self._events.close()
        self.context.production.close()
        self._watch_files.cancel()
        self._watch_rollouts.cancel()
        await self._rollouts.close()  # it gives way to requests anyway, and they end sooner
        if self._grpc is not None:  # calls that still decode get their answer
            await self._grpc.stop(self._settings.shutdown_grace_s)
        if self._review is not None:
            await asyncio.to_thread(self._review.close)
        await self._models.close()
        self._decoders.close()
        self._watch_drift.cancel()
        if self.context.drift is not None:
            with suppress(OSError, TimeoutError):  # what was counted last is lost
                async with asyncio.timeout(_MIN_CAPTURE_GRACE_S):
                    await self.context.drift.close()
        if self.context.capture is not None:
            left = deadline - loop.time()
            grace_s = min(max(left, _MIN_CAPTURE_GRACE_S), _MAX_CAPTURE_GRACE_S)
            await asyncio.to_thread(self.context.capture.close, grace_s)

    def _reloadables(self, http_tls: Reloadable | None) -> list[Reloadable]:
        """What may be changed while the service runs."""
        found = [] if http_tls is None else [http_tls]
        source = key_source(self._settings)
        if source.files:
            found.append(
                Reloadable(
                    "the file of keys", source.files, lambda: source.read_into(self.context.keys)
                )
            )
        tls = grpc_options(self._settings).tls
        if tls is not None:
            found.append(Reloadable("the TLS files of gRPC", tls.paths, self._renew_grpc_tls))
        return found

    def _renew_grpc_tls(self) -> None:
        if self._grpc is not None and self._grpc.tls is not None:
            self._grpc.tls.renew()

    async def _follow(self) -> None:
        """Make the wanted model current."""
        desired = await self._store.look()
        if desired.token != self._announced:  # at the first look as well: for what was missed
            self._announced = desired.token
            self._events.announce()
        await self._models.follow(desired)

    async def _follow_drift(self) -> None:
        if self.context.drift is not None:
            await self.context.drift.follow(self._models.current)

    async def _tell_health(self) -> None:
        """Let those who watch gRPC's health know when it has changed, whatever changed it; and who
        receives events, when something begins to fail."""
        served = self._models.current
        serves = f"{served.name}:{served.version}"
        self._health.look(serves, self._models.failed, self._supervisor.failing)
        ready = self.ready
        if ready != self._was_ready and self._grpc is not None:
            self._was_ready = ready
            await self._grpc.set_ready(ready)


def _no_answer() -> StoreError:
    return StoreError(
        f"the store {store.store_path()} doesn't answer within {_LOOK_S:g} s; the model that is "
        "served stays"
    )


def _registered_versions() -> list[str]:
    return [model.version for model in store.list_models()]
