"""The parts of a worker, each made as the settings want it."""

from __future__ import annotations

from models.monitoring.watch import Rules
from serving.admission.key_source import KeySource
from serving.core.dataplane import Limits
from serving.core.decode_budget import DecodeLimits
from serving.core.pool import ModelPool
from serving.core.supervisor import Supervisor
from serving.grpc.server import GrpcOptions, TlsFiles
from serving.observability.capture import Capture
from serving.observability.drift import DriftMonitor
from serving.observability.drift_metrics import DriftMetrics
from serving.observability.drift_store import shared_folder
from serving.review.desk import ServiceDesk
from serving.rollout.watch import ShadowOptions
from serving.settings import Settings, SettingsError


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


def key_source(settings: Settings) -> KeySource:
    """Where the API keys and the admin key come from: variables or files."""
    return KeySource(
        settings.api_keys.get_secret_value(),
        settings.admin_key.get_secret_value(),
        settings.api_keys_file,
        settings.admin_key_file,
    )


def request_limits(settings: Settings) -> Limits:
    """What one request may hold, and how long it may take."""
    return Limits(
        max_image_bytes=settings.max_image_bytes,
        max_image_pixels=settings.max_image_pixels,
        max_request_images=settings.max_request_images,
        max_request_bytes=settings.max_request_bytes,
        request_timeout_s=settings.request_timeout_ms / 1000,
        image_formats=settings.formats,
    )


def decode_limits(settings: Settings) -> DecodeLimits:
    """What all requests together may hold before it is decoded, and while it is."""
    return DecodeLimits(
        max_images=settings.max_queue_images,
        max_bytes=settings.max_inflight_bytes,
        max_pixels=settings.max_decode_pixels,
    )


def make_capture(settings: Settings, supervisor: Supervisor) -> Capture | None:
    """None: no images are kept."""
    if settings.capture == "off":
        return None
    return Capture(
        settings.capture_url,
        settings.capture,
        threshold=settings.capture_threshold,
        rate=settings.capture_rate,
        limit_bytes=settings.capture_limit,
        waiting_bytes=settings.capture_waiting_bytes,
        supervisor=supervisor,
    )


def make_drift_monitor(settings: Settings) -> DriftMonitor | None:
    """None: drift isn't watched.

    Raises:
        SettingsError: its folder can't be written to.
    """
    if not settings.drift:
        return None
    rules = Rules(settings.drift_false_alarm_rate, settings.watched_features)
    try:
        folder = settings.drift_dir or shared_folder()
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(
            f"the folder of drift can't be used: {error}; let VGG19_DRIFT_DIR name one that can be "
            "written to, or set VGG19_DRIFT to false"
        ) from None
    return DriftMonitor(folder, DriftMetrics(), settings.drift_window, rules)


def make_review(
    settings: Settings, models: ModelPool, supervisor: Supervisor
) -> ServiceDesk | None:
    """None: there is no page of reviews. In the event loop of the models.

    Raises:
        ReviewError: its folder can't be written to.
    """
    if settings.review is None:
        return None
    return ServiceDesk(settings.review, settings.capture_url, models, supervisor)


def shadow_options(settings: Settings, worker_index: int) -> ShadowOptions:
    """How a version runs in production's shadow."""
    return ShadowOptions(
        worker_index=worker_index,
        timeout_s=settings.session_timeout_s,
        # Who keeps images has told those whose images they are.
        keeps_pictures=settings.capture != "off",
    )
