"""Settings to a model that is ready: which version, how it is to be run, checked, loaded. Nothing
of it is served before its golden samples were replayed. Knows no transport."""

from __future__ import annotations

import logging
from functools import partial
from typing import Protocol

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from models.bundle.bundle import Bundle
from models.bundle.signature import Verifier
from models.errors import BundleError
from models.machine import cpu_count
from models.monitoring.reference import Reference, read_reference
from models.registry import store
from serving.core.batcher import Batcher
from serving.core.explainer import Explainer, MakeMaps, load_explainer
from serving.core.pool import DesiredVersion
from serving.core.served_model import ImageBatcher, Rerun, Runs, ServedModel
from serving.core.statistics import ModelStatistics
from serving.core.supervisor import Supervisor
from serving.engine.batch_sizes import default_concurrency
from serving.engine.options import SessionOptions
from serving.engine.providers import (
    GpuOptions,
    choose_providers,
    device_for_worker,
    gpu_count,
    has_cuda_driver,
)
from serving.engine.right_of_way import Courtesy, Traffic
from serving.engine.session import Session, checked_session
from serving.settings import Settings, SettingsError

logger = logging.getLogger(__name__)

# How long the review page's features wait for a gap between requests.
_A_PERSON_WAITS_S = 3.0


class BatchMetrics(Protocol):
    """Where a loaded model's batches and its queue are counted. (Those who predict offline count
    nothing, and Prometheus' client isn't imported for them.)"""

    def count_batch(self, size: int) -> None: ...
    def show_queue(self, version: str, depth: int) -> None: ...
    def count_reruns(self, count: int) -> None: ...


def use_store(settings: Settings) -> None:
    """Have `models.registry.store` work where the settings say.

    Raises:
        SettingsError: that can't be.
    """
    if settings.store is None:
        return
    try:
        store.use(settings.store)
    except OSError as error:
        raise SettingsError(f"VGG19_STORE {settings.store} can't be used: {error}") from None


def desired_version(settings: Settings) -> DesiredVersion:
    """The version that the settings name now.

    Raises:
        StoreError: nothing of that name.
    """
    token = store.production_token() if settings.model == store.PRODUCTION else None
    return DesiredVersion(store.resolve(settings.model), token)


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
    settings: Settings,
    options: SessionOptions,
    reference: str,
    traffic: Traffic | None = None,
) -> tuple[Bundle, Session]:
    """Open a registered model, check the graph that is to run, and load it.

    Args:
        traffic: see `Session`.

    Raises:
        UserError: see `open_model`; or it can't be run here.
    """
    bundle = open_model(settings, reference)
    return bundle, checked_session(bundle, options, traffic)


def load_model(
    settings: Settings,
    options: SessionOptions,
    metrics: BatchMetrics,
    supervisor: Supervisor,
    traffic: Traffic,
    version: str,
) -> ServedModel:
    """Load a registered model, replay its golden samples and warm it up; takes seconds.

    Args:
        supervisor: told when its heat maps can't be loaded.
        traffic: the requests of all models of this process.

    Raises:
        UserError: it isn't there, is damaged, not signed as required, or can't be run here.
    """
    bundle, session = open_session(settings, options, version, traffic)
    statistics, rerun_images = ModelStatistics(), 0
    concurrency = settings.max_concurrent_batches or default_concurrency(session.provider)

    def on_batch(size: int, seconds: float) -> None:
        statistics.count_batch(size, seconds)
        metrics.count_batch(size)
        nonlocal rerun_images
        before, rerun_images = rerun_images, session.rerun_images
        metrics.count_reruns(rerun_images - before)

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
        explainer=_explainer(settings, options, bundle, supervisor),
        acceptance=bundle.acceptance(),
        has_distance=session.has_distance,
        runs=_runs(session),
        reference=_reference(bundle),
        traffic=traffic,
        last_run=lambda: session.last_run,
        features=partial(_features, session, traffic) if session.has_features else None,
    )


def _runs(session: Session) -> Runs:
    rerun = None
    if session.second is not None and session.cascade is not None:
        rerun = Rerun(session.second, session.cascade.margin)
    return Runs(session.variant.name if session.variant else "float32", rerun)


def _features(session: Session, traffic: Traffic, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Of one image, between requests; in spite of them where there is no gap for seconds."""
    courtesy = Courtesy(traffic, _A_PERSON_WAITS_S)
    found: NDArray[np.float32] = courtesy.run(partial(session.features, [pixels]))[0]
    return found


def _reference(bundle: Bundle) -> Reference | None:
    """One that this version can't read keeps no model from being served."""
    try:
        return read_reference(bundle)
    except BundleError as error:
        logger.warning("drift isn't watched: %s", error)
        return None


def _explainer(
    settings: Settings, options: SessionOptions, bundle: Bundle, supervisor: Supervisor
) -> Explainer | None:
    if not settings.heat_maps or bundle.explain_path is None:
        return None

    def load() -> MakeMaps:
        bundle.check_explainer()
        return load_explainer(bundle, options)

    return Explainer(load, settings.max_queue_images, supervisor)


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


def worker_cores(settings: Settings) -> int:
    """The cores that one worker counts on."""
    return max(1, cpu_count() // settings.workers)
