"""Everything that one worker process runs, put together and taken apart."""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import onnxruntime as ort

from models import store
from models.machine import cpu_count
from serving import __version__
from serving.batcher import Batcher
from serving.classifier import Classifier, ImageBatcher, Limits
from serving.grpc_server import InferenceServicer, check_port, start_server
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
    """A loaded model with its batcher, its decoders and its gRPC server. Made by `start`."""

    def __init__(
        self,
        classifier: Classifier,
        batcher: ImageBatcher,
        decoders: ThreadPoolExecutor,
        grpc_server: grpc.aio.Server,
        grace_s: float,
    ) -> None:
        self.classifier = classifier
        self._batcher = batcher
        self._decoders = decoders
        self._grpc_server = grpc_server
        self._grace_s = grace_s

    @classmethod
    async def start(cls, settings: Settings, worker_index: int = 1) -> Runtime:
        """Load the model, replay its golden samples, warm it up, then listen on gRPC.

        Raises:
            UserError: what was asked for can't be served; the message says why.
        """
        version = store.resolve(settings.model)
        bundle = store.open_stored(version)
        options = session_options(settings, worker_index)
        session = await asyncio.to_thread(Session, bundle, options)
        batcher: ImageBatcher = Batcher(
            session.run,
            max_batch_size=settings.max_batch_size,
            max_queue=settings.max_queue_images,
            max_delay_s=settings.max_delay_ms / 1000,
            max_concurrent_batches=settings.max_concurrent_batches,
        )
        decoders = ThreadPoolExecutor(settings.decode_threads or cpu_count(), "decode")
        classifier = Classifier(
            name=store.MODEL_NAME,
            version=version,
            spec=bundle.spec,
            batcher=batcher,
            decoders=decoders,
            limits=_limits(settings),
        )
        servicer = InferenceServicer(classifier, __version__)
        grpc_server = await start_server(
            servicer, settings.grpc_host, settings.grpc_port, settings.max_request_bytes
        )
        logger.info("serving %s:%s on %s", store.MODEL_NAME, version, session.provider)
        return cls(classifier, batcher, decoders, grpc_server, settings.shutdown_grace_s)

    async def stop(self) -> None:
        """Finish what was accepted, within the grace period, and end."""
        deadline = time.monotonic() + self._grace_s
        await self._grpc_server.stop(self._grace_s)  # calls that still decode get their answer
        await self._batcher.close(max(0.0, deadline - time.monotonic()))
        self._decoders.shutdown(wait=False, cancel_futures=True)


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
