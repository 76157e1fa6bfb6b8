"""Everything that one worker process runs, put together and taken apart."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from pathlib import Path
from typing import Any

from opentelemetry import trace

from models import store
from models.errors import UserError
from serving import __version__
from serving.admission.api_keys import Keys
from serving.admission.rate_limit import RateLimit
from serving.context import ServiceContext
from serving.core.dataplane import Classifier, Limits
from serving.core.pool import ModelPool
from serving.core.workers import Workers
from serving.engine.memory import freeze_gc
from serving.engine.session import variant_to_run
from serving.grpc import server as grpc_server
from serving.grpc.server import GrpcOptions, GrpcServer, TlsFiles
from serving.grpc.servicer import InferenceServicer
from serving.http.classify import reply_content
from serving.loading import (
    desired_version,
    load_model,
    open_model,
    session_options,
    use_store,
    worker_cores,
)
from serving.observability.capture import Capture
from serving.observability.metrics import Metrics
from serving.observability.telemetry import Telemetry, access_logger
from serving.open_inference.repository import Repository
from serving.settings import Settings

logger = logging.getLogger(__name__)


def check_start(settings: Settings) -> None:
    """Find out, without loading the model, what would keep the service from starting.

    Raises:
        UserError: no such model, damaged files (of graphs only that they are there: their content
            is compared by who loads them), no signature where one is required, no such device, the
            gRPC port is taken, or its TLS files can't be used.
    """
    use_store(settings)
    bundle = open_model(settings, settings.model)
    variant_to_run(bundle, session_options(settings, worker_index=1))  # raises if there is none
    grpc_server.check_start(grpc_options(settings))
    capture = _capture(settings)
    if capture is not None:
        capture.close()


class Runtime:
    """The models with their decoders, the gRPC server, and the watch over what is promoted. Made by
    `start`."""

    def __init__(self, settings: Settings, models: ModelPool, telemetry: Telemetry) -> None:
        self._settings = settings
        self._models = models
        threads = settings.decode_threads or worker_cores(settings)
        self._decoders = Workers(threads, "decode")
        self.context = ServiceContext(
            classifier=Classifier(models, self._decoders, _limits(settings), telemetry.on_answer),
            repository=Repository(
                models, _registered_versions, self._follow, shared=settings.workers > 1
            ),
            keys=Keys(list(filter(None, settings.api_keys.split(","))), settings.admin_key),
            rate_limit=RateLimit(settings.rate_limit, settings.rate_limit_burst),
            telemetry=telemetry,
            is_ready=lambda: self.ready,
            is_alive=lambda: self.alive,
        )
        self._grpc: GrpcServer | None = None
        self._stopping = False
        self._watch = asyncio.create_task(self._follow_promotions())

    @classmethod
    async def start(
        cls, settings: Settings, worker_index: int, tracer: trace.Tracer | None
    ) -> Runtime:
        """Load the model, replay its golden samples, warm it up, then listen on gRPC.

        Args:
            worker_index: of the BentoML worker, from 1.
            tracer: for the spans of requests; None: there are none.

        Raises:
            UserError: what was asked for can't be served; the message says why.
        """
        freeze_gc()
        use_store(settings)
        metrics = Metrics()
        load = partial(load_model, settings, session_options(settings, worker_index), metrics)
        models = ModelPool(load, grace_s=settings.shutdown_grace_s, on_reload=metrics.count_reload)
        await models.follow(desired_version(settings))
        write = access_logger() if settings.access_log else None
        telemetry = Telemetry(metrics, write, tracer, _capture(settings))
        runtime = cls(settings, models, telemetry)
        runtime._grpc = await GrpcServer.start(
            InferenceServicer(runtime.context, __version__), grpc_options(settings)
        )
        return runtime

    @property
    def ready(self) -> bool:
        """Whether requests should be sent here."""
        stale = self._models.failed is not None and not self._settings.ready_while_stale
        return not self._stopping and not stale

    @property
    def alive(self) -> bool:
        """Whether the model's runs come to an end. A hanging one can't be interrupted."""
        return self._models.running_s < self._settings.session_timeout_s

    async def classify_file(self, image: Path, top_k: int, threshold: float) -> dict[str, Any]:
        """The body of an answer to `/classify` for one image file.

        Raises:
            RequestError: see `Classifier.classify`; BadImage if it can't be decoded.
        """
        content = await asyncio.to_thread(image.read_bytes)
        answer = await self.context.classifier.classify([content])
        return reply_content(answer, [image.name], top_k, threshold)

    async def stop(self) -> None:
        """Finish what was accepted, within the grace period, and end."""
        self._stopping = True
        self._watch.cancel()
        if self._grpc is not None:  # calls that still decode get their answer
            await self._grpc.stop(self._settings.shutdown_grace_s)
        await self._models.close()
        self._decoders.close()
        if self.context.capture is not None:
            await asyncio.to_thread(self.context.capture.close)

    async def _follow_promotions(self) -> None:
        """Look now and then which model is promoted; a look is one small file read."""
        told = ""
        while True:
            await asyncio.sleep(self._settings.watch_interval_s)
            try:
                await self._follow()
                told = ""
            except (UserError, OSError) as error:  # promoted, then removed; or a store that is away
                if str(error) != told:
                    logger.warning("the model that is served stays: %s", error)
                told = str(error)

    async def _follow(self) -> None:
        """Make the wanted model current, and let those who watch know what came of it."""
        was_ready = self.ready
        await self._models.follow(await asyncio.to_thread(desired_version, self._settings))
        if self.ready != was_ready and self._grpc is not None:
            await self._grpc.set_ready(self.ready)


def grpc_options(settings: Settings) -> GrpcOptions:
    """How the settings want gRPC to be served."""
    tls = None
    if settings.grpc_tls_cert is not None and settings.grpc_tls_key is not None:
        tls = TlsFiles(settings.grpc_tls_cert, settings.grpc_tls_key, settings.grpc_tls_client_ca)
    return GrpcOptions(
        host=settings.grpc_host,
        port=settings.grpc_port,
        max_message_bytes=settings.max_request_bytes,
        max_concurrent_calls=settings.grpc_max_concurrent_calls,
        keepalive_s=settings.grpc_keepalive_s,
        max_connection_age_s=settings.grpc_max_connection_age_s,
        share_port=settings.workers > 1,
        tls=tls,
    )


def _capture(settings: Settings) -> Capture | None:
    if settings.capture == "off":
        return None
    return Capture(
        settings.capture_url,
        settings.capture,
        threshold=settings.capture_threshold,
        rate=settings.capture_rate,
        limit_bytes=settings.capture_limit,
    )


def _registered_versions() -> list[str]:
    return [model.version for model in store.list_models()]


def _limits(settings: Settings) -> Limits:
    return Limits(
        max_image_bytes=settings.max_image_bytes,
        max_image_pixels=settings.max_image_pixels,
        max_request_images=settings.max_request_images,
        max_request_bytes=settings.max_request_bytes,
        request_timeout_s=settings.request_timeout_ms / 1000,
        image_formats=settings.formats,
    )
