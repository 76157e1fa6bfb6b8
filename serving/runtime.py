"""Everything that one worker process runs, put together and taken apart."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import grpc
import onnxruntime as ort

from models import store
from models.errors import UserError
from models.machine import cpu_count
from serving import __version__
from serving.access import Keys, RateLimit
from serving.batcher import Batcher
from serving.classifier import Classifier, Limits
from serving.grpc_server import InferenceServicer, check_port, start_server
from serving.pool import ImageBatcher, ModelPool, ServedModel, Wanted
from serving.providers import (
    GpuOptions,
    choose_providers,
    device_for_worker,
    gpu_count,
    has_cuda_driver,
)
from serving.session import Session, SessionOptions
from serving.settings import Settings

logger = logging.getLogger(__name__)


def check_start(settings: Settings) -> None:
    """Find out, without loading the model, what would keep the service from starting.

    Raises:
        UserError: no such model, damaged files, no such device, or the gRPC port is taken.
    """
    store.open_stored(store.resolve(settings.model))
    session_options(settings, worker_index=1)
    check_port(settings.grpc_host, settings.grpc_port)


class Runtime:
    """The models with their decoders, the gRPC server, and the watch over what is promoted. Made by
    `start`."""

    def __init__(
        self, settings: Settings, classifier: Classifier, decoders: ThreadPoolExecutor
    ) -> None:
        self.classifier = classifier
        self._settings = settings
        self._decoders = decoders
        self._keys = Keys(list(filter(None, settings.api_keys.split(","))), settings.admin_key)
        self._rate_limit = RateLimit(settings.rate_limit, settings.rate_limit_burst)
        self._grpc_server: grpc.aio.Server | None = None
        self._watch = asyncio.create_task(self._follow_promotions())
        self._stopping = False

    @classmethod
    async def start(cls, settings: Settings, worker_index: int = 1) -> Runtime:
        """Load the model, replay its golden samples, warm it up, then listen on gRPC.

        Args:
            worker_index: of the BentoML worker, from 1.

        Raises:
            UserError: what was asked for can't be served; the message says why.
        """
        load = partial(load_model, settings, session_options(settings, worker_index))
        models = ModelPool(load, grace_s=settings.shutdown_grace_s)
        await models.follow(wanted_model(settings))
        decoders = ThreadPoolExecutor(settings.decode_threads or cpu_count(), "decode")
        classifier = Classifier(models, decoders, _limits(settings))
        runtime = cls(settings, classifier, decoders)
        await runtime._start_grpc()
        return runtime

    def http_state(self) -> dict[str, Any]:
        """What `serving.http.create_app` needs in `app.state`."""
        return {
            "classifier": self.classifier,
            "keys": self._keys,
            "rate_limit": self._rate_limit,
            "is_ready": lambda: self.ready,
            "list_versions": lambda: [model.version for model in store.list_models()],
        }

    @property
    def ready(self) -> bool:
        """Whether requests should be sent here."""
        stale = self.classifier.models.failed is not None and not self._settings.ready_while_stale
        return not self._stopping and not stale

    async def stop(self) -> None:
        """Finish what was accepted, within the grace period, and end."""
        self._stopping = True
        self._watch.cancel()
        if self._grpc_server is not None:  # calls that still decode get their answer
            await self._grpc_server.stop(self._settings.shutdown_grace_s)
        await self.classifier.models.close()
        self._decoders.shutdown(wait=False, cancel_futures=True)

    async def _start_grpc(self) -> None:
        settings = self._settings
        servicer = InferenceServicer(
            self.classifier,
            __version__,
            keys=self._keys,
            rate_limit=self._rate_limit,
            is_ready=lambda: self.ready,
        )
        self._grpc_server = await start_server(
            servicer, settings.grpc_host, settings.grpc_port, settings.max_request_bytes
        )

    async def _follow_promotions(self) -> None:
        """Look now and then which model is promoted; a look is one small file read."""
        told = ""
        while True:
            await asyncio.sleep(self._settings.watch_interval_s)
            try:
                wanted = await asyncio.to_thread(wanted_model, self._settings)
                await self.classifier.models.follow(wanted)
                told = ""
            except (UserError, OSError) as error:  # promoted, then removed; or a store that is away
                if str(error) != told:
                    logger.warning("the model that is served stays: %s", error)
                told = str(error)


def wanted_model(settings: Settings) -> Wanted:
    """The version that the settings name now.

    Raises:
        StoreError: nothing of that name.
    """
    token = store.production_token() if settings.model == store.PRODUCTION else None
    return Wanted(store.resolve(settings.model), token)


def load_model(settings: Settings, options: SessionOptions, version: str) -> ServedModel:
    """Load a registered model, replay its golden samples and warm it up; takes seconds.

    Raises:
        UserError: it isn't there, is damaged, or can't be run here.
    """
    bundle = store.open_stored(store.resolve(version))
    session = Session(bundle, options)
    batcher: ImageBatcher = Batcher(
        session.run,
        max_batch_size=settings.max_batch_size,
        max_queue=settings.max_queue_images,
        max_delay_s=settings.max_delay_ms / 1000,
        max_concurrent_batches=settings.max_concurrent_batches,
    )
    return ServedModel(
        name=store.MODEL_NAME,
        version=version,
        spec=bundle.spec,
        metrics=bundle.metrics(),
        provider=session.provider,
        batcher=batcher,
    )


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
        intra_op_threads=settings.intra_op_threads or cpu_count(),
        max_batch_size=settings.max_batch_size,
    )


def _limits(settings: Settings) -> Limits:
    return Limits(
        max_image_bytes=settings.max_image_bytes,
        max_image_pixels=settings.max_image_pixels,
        max_request_images=settings.max_request_images,
        max_request_bytes=settings.max_request_bytes,
        request_timeout_s=settings.request_timeout_ms / 1000,
    )
