"""Everything that one worker process runs, put together and taken apart."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime as ort
from opentelemetry import trace

from models import store
from models.bundle import Bundle
from models.errors import UserError
from models.machine import cpu_count
from models.signature import Verifier
from serving import __version__
from serving.admission.api_keys import Keys
from serving.admission.rate_limit import RateLimit
from serving.core.batcher import Batcher
from serving.core.dataplane import Classifier, Limits
from serving.core.explainer import Explainer, MakeMaps, load_explainer
from serving.core.pool import ImageBatcher, ModelPool, ServedModel, Wanted
from serving.core.statistics import ModelStatistics
from serving.core.workers import Workers
from serving.engine.batch_sizes import default_concurrency
from serving.engine.memory import keep_modules
from serving.engine.options import SessionOptions
from serving.engine.providers import (
    GpuOptions,
    choose_providers,
    device_for_worker,
    gpu_count,
    has_cuda_driver,
)
from serving.engine.session import Session, checked_session, variant_to_run
from serving.front import Front
from serving.grpc import server as grpc_server
from serving.grpc.server import GrpcOptions, GrpcServer, TlsFiles
from serving.grpc.servicer import InferenceServicer
from serving.http.classify import reply_content
from serving.observability.capture import Capture
from serving.observability.metrics import Metrics
from serving.observability.telemetry import Signals, access_logger
from serving.open_inference.repository import Repository
from serving.settings import Settings, SettingsError

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

    def __init__(self, settings: Settings, models: ModelPool, signals: Signals) -> None:
        self._settings = settings
        self._models = models
        threads = settings.decode_threads or worker_cores(settings)
        self._decoders = Workers(threads, "decode")
        self.front = Front(
            classifier=Classifier(models, self._decoders, _limits(settings), signals.on_answer),
            repository=Repository(
                models, _registered_versions, self._follow, shared=settings.workers > 1
            ),
            keys=Keys(list(filter(None, settings.api_keys.split(","))), settings.admin_key),
            rate_limit=RateLimit(settings.rate_limit, settings.rate_limit_burst),
            signals=signals,
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
        keep_modules()
        use_store(settings)
        metrics = Metrics()
        load = partial(load_model, settings, session_options(settings, worker_index), metrics)
        models = ModelPool(load, grace_s=settings.shutdown_grace_s, on_reload=metrics.count_reload)
        await models.follow(wanted_model(settings))
        write = access_logger() if settings.access_log else None
        signals = Signals(metrics, write, tracer, _capture(settings))
        runtime = cls(settings, models, signals)
        runtime._grpc = await GrpcServer.start(
            InferenceServicer(runtime.front, __version__), grpc_options(settings)
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
        answer = await self.front.classifier.classify([content])
        return reply_content(answer, [image.name], top_k, threshold)

    async def stop(self) -> None:
        """Finish what was accepted, within the grace period, and end."""
        self._stopping = True
        self._watch.cancel()
        if self._grpc is not None:  # calls that still decode get their answer
            await self._grpc.stop(self._settings.shutdown_grace_s)
        await self._models.close()
        self._decoders.close()
        if self.front.capture is not None:
            await asyncio.to_thread(self.front.capture.close)

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
        await self._models.follow(await asyncio.to_thread(wanted_model, self._settings))
        if self.ready != was_ready and self._grpc is not None:
            await self._grpc.set_ready(self.ready)


def use_store(settings: Settings) -> None:
    """Have `models.store` work where the settings say.

    Raises:
        SettingsError: that can't be.
    """
    if settings.store is None:
        return
    try:
        store.use(settings.store)
    except OSError as error:
        raise SettingsError(f"VGG19_STORE {settings.store} can't be used: {error}") from None


def wanted_model(settings: Settings) -> Wanted:
    """The version that the settings name now.

    Raises:
        StoreError: nothing of that name.
    """
    token = store.production_token() if settings.model == store.PRODUCTION else None
    return Wanted(store.resolve(settings.model), token)


def open_model(settings: Settings, reference: str) -> Bundle:
    """Open a registered model, whose signature is checked first if the settings require one. Its
    graphs aren't checked yet, see `checked_session`.

    Raises:
        UserError: it isn't there, is damaged, or not signed with the key that the settings name; or
            that can't be used.
    """
    version = store.resolve(reference)
    if settings.signature_key is None:  # which is to say: none is required
        return store.inspect_stored(version)
    return store.inspect_stored(version, Verifier(settings.signature_key).check)


def open_session(
    settings: Settings, options: SessionOptions, reference: str
) -> tuple[Bundle, Session]:
    """Open a registered model, check the graph that is to run, and load it.

    Raises:
        UserError: see `open_model`; or it can't be run here.
    """
    bundle = open_model(settings, reference)
    return bundle, checked_session(bundle, options)


def load_model(
    settings: Settings, options: SessionOptions, metrics: Metrics, version: str
) -> ServedModel:
    """Load a registered model, replay its golden samples and warm it up; takes seconds.

    Raises:
        UserError: it isn't there, is damaged, not signed as required, or can't be run here.
    """
    bundle, session = open_session(settings, options, version)
    statistics = ModelStatistics()
    concurrency = settings.max_concurrent_batches or default_concurrency(session.provider)

    def on_batch(size: int, seconds: float) -> None:
        statistics.count_batch(size, seconds)
        metrics.count_batch(size)

    batcher: ImageBatcher = Batcher(
        session.judge,
        max_batch_size=session.max_batch_size,
        max_queue=settings.max_queue_images,
        max_delay_s=settings.max_delay_ms / 1000,
        max_concurrent_batches=concurrency,
        on_batch=on_batch,
        on_queue=partial(metrics.show_queue, version),
    )
    return ServedModel(
        name=store.MODEL_NAME,
        version=version,
        spec=bundle.spec,
        metrics=bundle.metrics(),
        provider=session.provider,
        batcher=batcher,
        statistics=statistics,
        explainer=_explainer(settings, options, bundle),
        acceptance=bundle.acceptance(),
        has_distance=session.has_distance,
    )


def _explainer(settings: Settings, options: SessionOptions, bundle: Bundle) -> Explainer | None:
    if not settings.heat_maps or bundle.explain_path is None:
        return None

    def load() -> MakeMaps:
        bundle.check_explainer()
        return load_explainer(bundle, options)

    return Explainer(load, settings.max_queue_images)


def session_options(settings: Settings, worker_index: int) -> SessionOptions:
    """How the settings want the model to be run, on this machine.

    Args:
        worker_index: of the BentoML worker, from 1; each takes a GPU of its own.

    Raises:
        SessionError: what was asked for can't be had here.
    """
    gpu = GpuOptions(
        precision=settings.precision,
        tensorrt=settings.tensorrt,
        mem_limit_bytes=settings.gpu_mem_limit,
        device_id=device_for_worker(worker_index, gpu_count()),
        engine_cache=settings.tensorrt_cache,
    )
    providers = choose_providers(
        settings.device, gpu, ort.get_available_providers(), has_cuda_driver()
    )
    return SessionOptions(
        providers=providers,
        must_run_on=providers[0][0] if settings.device == "cuda" else None,
        intra_op_threads=settings.intra_op_threads or worker_cores(settings),
        max_batch_size=settings.max_batch_size,
        gpu=gpu,
        cpu_engine=settings.cpu_engine,
    )


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


def worker_cores(settings: Settings) -> int:
    """The cores that one worker counts on."""
    return max(1, cpu_count() // settings.workers)


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
