"""The BentoML service: wiring only. `bentoml serve service:VGG19`, or `vgg19 serve`."""

from __future__ import annotations

import logging
import os
import signal
from typing import NoReturn

import bentoml
from bentoml.exceptions import BentoMLException

from models.errors import UserError
from serving.http import create_app
from serving.runtime import Runtime, check_start
from serving.settings import MAX_REQUEST_TIMEOUT_MS, load_settings

logger = logging.getLogger("serving")
app = create_app()


@bentoml.service(name="vgg19", traffic={"timeout": MAX_REQUEST_TIMEOUT_MS // 1000 + 60})
@bentoml.asgi_app(app, path="/")
class VGG19:
    """Serves the production model over HTTP (`serving.http`) and gRPC (`serving.grpc_server`)."""

    def __init__(self) -> None:
        self._runtime: Runtime | None = None

    @bentoml.on_deployment  # makes it a static method
    def check() -> None:
        """Once, before any worker: what can't be served is one line in the terminal."""
        try:
            check_start(load_settings())
        except UserError as error:
            raise BentoMLException(str(error)) from None

    @bentoml.on_startup
    async def start(self) -> None:
        """In each worker, before it accepts requests."""
        logger.parent = logging.getLogger("bentoml")  # for its handlers and level
        try:
            self._runtime = await Runtime.start(
                load_settings(), bentoml.server_context.worker_index or 1
            )
        except UserError as error:
            logger.critical("%s", error)
            end_service()
        except Exception:
            logger.critical("the service can't start", exc_info=True)
            end_service()
        for name, value in self._runtime.http_state().items():
            setattr(app.state, name, value)

    @bentoml.on_shutdown
    async def stop(self) -> None:
        if self._runtime is not None:
            await self._runtime.stop()

    async def __is_ready__(self) -> bool:
        return self._runtime is not None and self._runtime.ready


def end_service() -> NoReturn:
    """End this worker and its parent.

    Left to itself, BentoML starts a failing worker five times more and then keeps an open port
    that nobody answers on. An ended service is what an orchestrator notices.
    """
    os.kill(os.getppid(), signal.SIGTERM)
    os._exit(1)
