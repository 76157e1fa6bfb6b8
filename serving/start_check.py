"""What would keep the service from starting, found out before a worker is started."""

from __future__ import annotations

from models.events import config as events_config
from serving.core.supervisor import Supervisor
from serving.engine.measured import measure_if_unknown
from serving.engine.session import what_to_run
from serving.grpc import server as grpc_server
from serving.loading import open_model, session_options, use_store
from serving.parts import grpc_options, key_source, make_capture
from serving.review.desk import open_journal
from serving.settings import Settings


def check_start(settings: Settings) -> None:
    """Find out, without loading the model, what would keep the service from starting; and, in a
    process that ends then, which of its graphs is the fastest here, if that matters and is unknown.

    Raises:
        UserError: no such model, damaged files (of graphs only that they are there: their content
            is compared by who loads them), no signature where one is required, no such device, the
            gRPC port is taken, its TLS files or a file of keys can't be used, or events can't wait
            or reviews be kept where they are to.
    """
    use_store(settings)
    bundle = open_model(settings, settings.model)
    options = session_options(settings, worker_index=1)
    measure_if_unknown(bundle, options)
    what_to_run(bundle, options)  # raises if there is none
    grpc_server.check_start(grpc_options(settings))
    key_source(settings).read()
    events = events_config.from_environment()
    if events is not None:
        events_config.check(events)
    capture = make_capture(settings, Supervisor())
    if capture is not None:
        capture.close()
    if settings.review is not None:
        open_journal(settings.review).close()
