"""The gRPC server: its address, its limits, TLS, health and reflection."""

from __future__ import annotations

import logging
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from models.errors import UserError
from protocol.open_inference_pb2 import DESCRIPTOR
from protocol.open_inference_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
from serving.grpc.malformed import CheckedServer
from serving.grpc.reflection import add_reflection
from serving.grpc.servicer import READERS, InferenceServicer

logger = logging.getLogger(__name__)

SERVICE = DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
# How long a peer may leave a ping unanswered; gRPC's own default.
_PING_TIMEOUT_MS = 20_000
# A client that pings more often than this is cut off. gRPC's default, 5 minutes, would cut off
# clients with a usual keep-alive of half a minute.
_MIN_CLIENT_PING_MS = 10_000
_LOOKAHEAD_BYTES = 4_000_000


class GrpcServerError(UserError):
    """The gRPC server can't start."""


@dataclass(frozen=True)
class TlsFiles:
    """PEM files. `client_ca`: clients must show a certificate that it signed."""

    cert: Path
    key: Path
    client_ca: Path | None = None

    @property
    def paths(self) -> list[Path]:
        return [path for path in (self.cert, self.key, self.client_ca) if path is not None]


class TlsCredentials:
    """Credentials of the server that new connections are given, and that may be renewed.

    Raises:
        GrpcServerError: the files can't be used.
    """

    def __init__(self, files: TlsFiles) -> None:
        self.files = files
        self._renewed: grpc.ServerCertificateConfiguration | None = None
        self.server_credentials = grpc.dynamic_ssl_server_credentials(
            _configuration(_contents(files)),
            self._take_renewed,  # type: ignore[arg-type]  # the stubs don't know of None
            require_client_authentication=files.client_ca is not None,
        )

    def renew(self) -> None:
        """Read the files again, for the connections to come. Raises GrpcServerError, and leaves
        everything as it is, if they can't be used or don't fit each other (yet)."""
        before = _contents(self.files)
        _check_tls(self.files)
        if _contents(self.files) != before:
            raise _bad_tls("they are being changed just now")
        self._renewed = _configuration(before)

    def _take_renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """Asked for by gRPC at each connection; None: what it has is the present one."""
        renewed, self._renewed = self._renewed, None
        return renewed


@dataclass(frozen=True)
class GrpcOptions:
    """Where and how to listen.

    Args:
        port: 0 takes a free one.
        share_port: with the other workers (SO_REUSEPORT).
        max_connection_age_s: 0: any.
    """

    host: str
    port: int
    max_message_bytes: int
    max_concurrent_calls: int = 1024
    keepalive_s: float = 60.0
    max_connection_age_s: float = 0.0
    share_port: bool = False
    tls: TlsFiles | None = None


class GrpcServer:
    """A listening server. Made by `start`."""

    def __init__(
        self, server: grpc.aio.Server, health_servicer: Any, tls: TlsCredentials | None = None
    ) -> None:
        self.tls = tls
        self._server = server
        self._health = health_servicer

    @classmethod
    async def start(cls, servicer: InferenceServicer, options: GrpcOptions) -> GrpcServer:
        """Start serving.

        Raises:
            GrpcServerError: the address can't be bound, or the TLS files can't be used.
        """
        server = grpc.aio.server(
            options=_channel_arguments(options),
            maximum_concurrent_rpcs=options.max_concurrent_calls,
        )
        health_servicer = health.aio.HealthServicer()  # type: ignore[attr-defined]  # not in stubs
        checked = CheckedServer(server, READERS)
        add_GRPCInferenceServiceServicer_to_server(servicer, checked)
        health_pb2_grpc.add_HealthServicer_to_server(health_servicer, checked)
        add_reflection((SERVICE, health.SERVICE_NAME), checked)
        tls = None if options.tls is None else TlsCredentials(options.tls)
        bound = _bind(server, options, tls)
        started = cls(server, health_servicer, tls)
        await started.set_ready(True)
        await server.start()
        logger.info("gRPC listens on %s:%d", options.host, bound)
        return started

    async def set_ready(self, ready: bool) -> None:
        """What `grpc.health.v1` answers and tells those who watch it."""
        statuses = health_pb2.HealthCheckResponse
        status = statuses.SERVING if ready else statuses.NOT_SERVING
        for name in ("", SERVICE):
            await self._health.set(name, status)

    async def stop(self, grace_s: float) -> None:
        """Accept no more calls, and wait up to `grace_s` for those that run."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_s)


def check_start(options: GrpcOptions) -> None:
    """Raise GrpcServerError if the address can't be bound now, or the TLS files can't be used."""
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    try:
        with socket.create_server((options.host, options.port), family=family):
            pass
    except (OSError, OverflowError) as error:
        raise _cannot_listen(options, str(error)) from None
    if options.tls is not None:
        _check_tls(options.tls)


def _channel_arguments(options: GrpcOptions) -> list[tuple[str, int]]:
    """See gRPC's core/channel_arg_names.h."""
    arguments = [
        ("grpc.max_receive_message_length", options.max_message_bytes),
        # gRPC lets a client send 64 KB of a message ahead, then it waits for a permit; most images
        # are larger.
        ("grpc.http2.lookahead_bytes", min(options.max_message_bytes, _LOOKAHEAD_BYTES)),
        # On by default: a second service on the same port would silently take half the calls.
        ("grpc.so_reuseport", int(options.share_port)),
        ("grpc.keepalive_time_ms", round(options.keepalive_s * 1000)),
        ("grpc.keepalive_timeout_ms", _PING_TIMEOUT_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", _MIN_CLIENT_PING_MS),
    ]
    if options.max_connection_age_s:
        arguments.append(("grpc.max_connection_age_ms", round(options.max_connection_age_s * 1000)))
    return arguments


def _bind(server: grpc.aio.Server, options: GrpcOptions, tls: TlsCredentials | None) -> int:
    host = f"[{options.host}]" if ":" in options.host else options.host
    address = f"{host}:{options.port}"
    try:
        if tls is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, tls.server_credentials)
    except RuntimeError as error:
        raise _cannot_listen(options, "see the log") from error


def _contents(tls: TlsFiles) -> tuple[bytes, bytes, bytes | None]:
    """Key, certificates, authorities."""
    try:
        authorities = None if tls.client_ca is None else tls.client_ca.read_bytes()
        return tls.key.read_bytes(), tls.cert.read_bytes(), authorities
    except OSError as error:
        raise _bad_tls(str(error)) from None


def _configuration(
    contents: tuple[bytes, bytes, bytes | None],
) -> grpc.ServerCertificateConfiguration:
    key, chain, authorities = contents
    return grpc.ssl_server_certificate_configuration([(key, chain)], authorities)


def _check_tls(tls: TlsFiles) -> None:
    """gRPC itself says nothing of a bad file before a client fails to connect."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(tls.cert, tls.key)
    except (OSError, ssl.SSLError) as error:
        raise _bad_tls(f"{tls.cert} with {tls.key}: {error}") from None
    try:
        context.load_verify_locations(tls.client_ca or tls.cert)
    except (OSError, ssl.SSLError) as error:
        raise _bad_tls(f"{tls.client_ca}: {error}") from None


def _bad_tls(reason: str) -> GrpcServerError:
    return GrpcServerError(
        f"the TLS files can't be used ({reason}); see VGG19_GRPC_TLS_CERT, VGG19_GRPC_TLS_KEY and "
        "VGG19_GRPC_TLS_CLIENT_CA"
    )


def _cannot_listen(options: GrpcOptions, reason: str) -> GrpcServerError:
    return GrpcServerError(
        f"gRPC can't listen on {options.host}:{options.port} ({reason}); choose another "
        "VGG19_GRPC_PORT"
    )
