"""Keys and certificates change while clients ask all the time, and no request fails."""

from __future__ import annotations

import hashlib
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from cryptography import x509

from benchmarks.serving.load import infer_request
from protocol.open_inference_pb2_grpc import GRPCInferenceServiceStub
from testing import patient
from testing.images import coloured_pixels, encode
from testing.server import Server, serve, serve_with
from testing.waiting import HANG_S, wait_until

IMAGE = encode(coloured_pixels(2))
PNG = {"Content-Type": "image/png"}
CHANGES = 3


def replace(file: Path, content: bytes) -> None:
    file.with_suffix(".new").write_bytes(content)
    file.with_suffix(".new").replace(file)


class Load:
    """Clients that ask without a pause, each time anew, until told to stop."""

    def __init__(self, *asks: Callable[[], object]) -> None:
        self._done = threading.Event()
        self._pool = ThreadPoolExecutor(len(asks))
        self._running = [self._pool.submit(self._ask, ask) for ask in asks]

    def _ask(self, ask: Callable[[], object]) -> Counter[object]:
        seen: Counter[object] = Counter()
        while not self._done.is_set():
            seen[ask()] += 1
        return seen

    def stop(self) -> list[Counter[object]]:
        self._done.set()
        seen = [running.result(60) for running in self._running]
        self._pool.shutdown()
        return seen


def digests(*keys: str) -> bytes:
    return "\n".join(hashlib.sha256(key.encode()).hexdigest() for key in keys).encode()


def over_http(server: Server, key: str) -> int:
    headers = PNG | {"Authorization": f"Bearer {key}"}
    return patient.post(f"{server.url}/classify", content=IMAGE, headers=headers).status_code


def over_grpc(server: Server, key: str) -> str:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        metadata = (("authorization", f"Bearer {key}"),)
        try:
            GRPCInferenceServiceStub(channel).ModelInfer(
                infer_request(IMAGE), metadata=metadata, timeout=HANG_S
            )
        except grpc.RpcError as error:
            return str(error.code())
    return "ok"


def administers(server: Server, key: str) -> bool:
    headers = {"Authorization": f"Bearer {key}"}
    return patient.post(f"{server.url}/v2/repository/index", headers=headers).status_code == 200


def lets_in(server: Server, key: str, admin: str) -> bool:
    """Whether each of the workers does, of which connections find any."""
    return all(
        over_http(server, key) == 200
        and over_grpc(server, key) == "ok"
        and administers(server, admin)
        for _ in range(5)
    )


@pytest.mark.exhaustive
def test_keys_change_under_load(tiny_home: Path, tmp_path: Path) -> None:
    """A client's key is good the whole time, others come and go, the admin's changes."""
    keys, admin = tmp_path / "keys", tmp_path / "admin"
    replace(keys, digests("stays", "leaves"))
    replace(admin, digests("admin"))
    settings: dict[str, Any] = {
        "VGG19_API_KEYS_FILE": str(keys),
        "VGG19_ADMIN_KEY_FILE": str(admin),
        "VGG19_WATCH_INTERVAL_S": "1",
        "VGG19_WORKERS": "2",
    }
    with serve(tiny_home, tmp_path / "log", **settings) as server:
        load = Load(lambda: over_http(server, "stays"), lambda: over_grpc(server, "stays"))
        assert over_http(server, "leaves") == 200
        assert over_grpc(server, "comes0") == "StatusCode.UNAUTHENTICATED"
        for number in range(CHANGES):
            replace(keys, digests("stays", f"comes{number}"))
            replace(admin, digests(f"admin{number}"))
            wait_until(partial(lets_in, server, f"comes{number}", f"admin{number}"))
        wait_until(lambda: {over_http(server, "leaves") for _ in range(20)} == {401})
        wait_until(
            lambda: (
                {over_grpc(server, "leaves") for _ in range(20)} == {"StatusCode.UNAUTHENTICATED"}
            )
        )
        for wrong in (b"", b"no digest", b"\xff\xfe"):  # what was there before stays
            replace(keys, wrong)
            wait_until(lambda: "stays in force" in (tmp_path / "log").read_text())
            assert over_http(server, "nobody") == 401
        http, over = load.stop()
    assert set(http) == {200}
    assert set(over) == {"ok"}
    assert min(http.total(), over.total()) > CHANGES
    assert b"no digest" not in (tmp_path / "log").read_bytes().replace(b"it holds no digest", b"")


def serial(port: int) -> int:
    """Of the certificate that a new connection is shown."""
    pem = ssl.get_server_certificate(("127.0.0.1", port))
    return x509.load_pem_x509_certificate(pem.encode()).serial_number


def shows(port: int, number: int) -> bool:
    return serial(port) == number


def test_certificates_change_under_load(tiny_home: Path, tmp_path: Path) -> None:
    """On both transports, with the key written apart from its certificate."""
    authority = trustme.CA()
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"

    def issue() -> int:
        made = authority.issue_cert("localhost", "127.0.0.1")
        chain = b"".join(pem.bytes() for pem in made.cert_chain_pems)
        replace(cert, chain)
        time.sleep(0.5)  # for a while they don't fit each other
        replace(key, made.private_key_pem.bytes())
        return x509.load_pem_x509_certificate(chain).serial_number

    first = issue()
    context = ssl.create_default_context()
    authority.configure_trust(context)
    credentials = grpc.ssl_channel_credentials(authority.cert_pem.bytes())
    settings: dict[str, Any] = {
        "VGG19_GRPC_TLS_CERT": str(cert),
        "VGG19_GRPC_TLS_KEY": str(key),
        "VGG19_WATCH_INTERVAL_S": "1",
    }
    options = ("--ssl-certfile", str(cert), "--ssl-keyfile", str(key))
    with serve_with(tiny_home, tmp_path / "log", settings, options=options, tls=context) as server:
        url = f"https://127.0.0.1:{server.http_port}/classify"

        def ask_http() -> int:
            return patient.post(url, content=IMAGE, headers=PNG, verify=context).status_code

        def ask_grpc() -> str:
            with grpc.secure_channel(f"localhost:{server.grpc_port}", credentials) as channel:
                GRPCInferenceServiceStub(channel).ModelInfer(infer_request(IMAGE), timeout=HANG_S)
            return "ok"

        ports = (server.http_port, server.grpc_port)
        assert [serial(port) for port in ports] == [first, first]
        load = Load(ask_http, ask_grpc)
        for _ in range(CHANGES):
            made = issue()
            for port in ports:
                wait_until(partial(shows, port, made))
        http, over = load.stop()
    assert set(http) == {200}
    assert set(over) == {"ok"}
    assert min(http.total(), over.total()) > CHANGES
