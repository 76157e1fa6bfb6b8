"""The BentoML service: wiring only. `bentoml serve service:VGG19`, or `vgg19 serve`."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import bentoml
from bentoml.exceptions import BentoMLException

from models.bentoml_adapter import tracer, worker_index
from models.errors import UserError
from serving import environment
from serving.http import connections
from serving.http.app import RouteDispatch, create_app
from serving.http.classify import DEFAULT_TOP_K
from serving.http.tls import http_tls
from serving.observability.drift_store import make_shared_folder
from serving.settings import (
    MAX_REQUEST_TIMEOUT_MS,
    cors_origins,
    load_settings,
    worker_count,
)
from serving.shutdown import end_service, end_with_parent, listen_to_workers
from serving.start_check import check_start
from serving.worker import Runtime

if worker_index() is not None:
    end_with_parent()
# uvicorn believes any X-Forwarded-For that comes from 127.0.0.1; whom to believe is the settings'.
os.environ["FORWARDED_ALLOW_IPS"] = ""
# A log that can't be written costs no traceback for each of its lines (see the module's page).
logging.raiseExceptions = False

logger = logging.getLogger("serving")
app = create_app()
connections.install()
# BentoML installs compilers and git into images of the distributions that it knows, so it is given
# none. What it is to know of the image is in bentofile.yaml.
IMAGE = bentoml.images.Image(base_image="docker.io/library/python:3.11-slim-bookworm", distro="")


@bentoml.service(
    name="vgg19",
    image=IMAGE,
    workers=worker_count(),
    traffic={"timeout": MAX_REQUEST_TIMEOUT_MS // 1000 + 60},
    # `serving.observability.telemetry` writes one, for both transports.
    logging={"access": {"enabled": False}},
)
class VGG19:
    """Serves the production model over HTTP (`serving.http.app`) and gRPC
    (`serving.grpc.server`)."""

    def __init__(self) -> None:
        self._runtime: Runtime | None = None

    @bentoml.api
    async def classify(
        self, image: Path, top_k: int = DEFAULT_TOP_K, threshold: float = 0.0
    ) -> dict[str, Any]:
        """Classify an image file.

        For BentoML's clients, which learn from it what to send, and for services that depend on
        this one in the same process. Requests over HTTP are answered by `serving.http.classify`.
        """
        assert self._runtime is not None, "not started"
        return await self._runtime.classify_file(image, top_k, threshold)

    @bentoml.on_deployment  # makes it a static method
    def check() -> None:
        """Once, before any worker: what can't be served is one line in the terminal."""
        environment.prepare()  # BentoML has come back to where the command was typed
        try:
            settings = load_settings()
            check_start(settings)
            listen_to_workers(settings.shutdown_grace_s)
            if settings.drift and settings.drift_dir is None:
                make_shared_folder()
        except UserError as error:
            raise BentoMLException(str(error)) from None

    @bentoml.on_startup
    async def start(self) -> None:
        """In each worker, before it accepts requests."""
        logger.parent = logging.getLogger("bentoml")  # for its handlers and level
        try:
            settings = load_settings()
            connections.keep_open(settings.keep_alive_s)
            self._runtime = await Runtime.start(settings, worker_index() or 1, tracer(), http_tls())
        except UserError as error:
            logger.critical("%s", error)
            end_service()
        except Exception:
            logger.critical("the service can't start", exc_info=True)
            end_service()
        app.state.context = self._runtime.context

    @bentoml.on_shutdown
    async def stop(self) -> None:
        if self._runtime is not None:
            await self._runtime.stop()

    async def __is_alive__(self) -> bool:
        return self._runtime is None or self._runtime.alive

    async def __is_ready__(self) -> bool:
        return self._runtime is not None and self._runtime.ready


VGG19.add_asgi_middleware(  # type: ignore[attr-defined]  # a Service by now
    RouteDispatch, own=app, origins=cors_origins
)
