"""deploy/nginx.conf in front of a running service."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import pytest
import trustme

from benchmarks.serving.load import infer_request
from protocol.open_inference_pb2_grpc import GRPCInferenceServiceStub
from testing import patient
from testing.images import coloured_pixels, encode
from testing.ports import free_port
from testing.server import ROOT, Server, serve
from testing.waiting import HANG_S

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx (Debian's nginx-light) isn't here")
IMAGE = encode(coloured_pixels(2))
PNG = {"Content-Type": "image/png"}


@dataclass(frozen=True)
class Proxy:
    port: int
    authority: trustme.CA

    @property
    def client(self) -> patient.Client:
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        return patient.client(base_url=f"https://localhost:{self.port}", verify=context)


@pytest.fixture(scope="module")
def proxy(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with nginx(server, tmp_path_factory.mktemp("nginx")) as proxy:
        yield proxy


@contextmanager
def nginx(server: Server, place: Path, *changes: tuple[str, str]) -> Iterator[Proxy]:
    """deploy/nginx.conf with the addresses of a test, and other changes."""
    port, authority = free_port(), trustme.CA()
    certificate = authority.issue_cert("localhost")
    certificate.cert_chain_pems[0].write_to_path(place / "cert.pem")
    certificate.private_key_pem.write_to_path(place / "key.pem")
    text = (ROOT / "deploy" / "nginx.conf").read_text()
    for before, after in (
        ("/etc/ssl/vgg19/", f"{place}/"),
        ("listen 443", f"listen 127.0.0.1:{port}"),
        ("127.0.0.1:3000", f"127.0.0.1:{server.http_port}"),
        ("127.0.0.1:3001", f"127.0.0.1:{server.grpc_port}"),
        ("client_header_timeout 10s", "client_header_timeout 1s"),
        ("events {}", f"pid {place}/pid;\nerror_log {place}/error.log;\ndaemon off;\nevents {{}}"),
        ("\nhttp {", f"\nhttp {{\n access_log off;\n {temporary_paths(place)}"),
        *changes,
    ):
        assert before in text, before
        text = text.replace(before, after)
    (place / "nginx.conf").write_text(text)
    assert NGINX is not None
    process = subprocess.Popen([NGINX, "-c", str(place / "nginx.conf"), "-p", str(place)])
    try:
        wait_for(port)
        yield Proxy(port, authority)
    finally:
        process.terminate()
        process.wait(timeout=HANG_S)


def temporary_paths(place: Path) -> str:
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    return " ".join(f"{kind}_temp_path {place}/{kind};" for kind in kinds)


def wait_for(port: int) -> None:
    for _ in range(600):
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.1)
    raise AssertionError("nginx doesn't listen")


def test_https_and_grpc_on_one_port(proxy: Proxy) -> None:
    with proxy.client as client:
        reply = client.post("/classify", content=IMAGE, headers=PNG)
    assert reply.status_code == 200, reply.text
    credentials = grpc.ssl_channel_credentials(proxy.authority.cert_pem.bytes())
    with grpc.secure_channel(f"localhost:{proxy.port}", credentials) as channel:
        answer = GRPCInferenceServiceStub(channel).ModelInfer(infer_request(IMAGE), timeout=HANG_S)
    assert answer.model_version == reply.json()["model_version"]


def test_what_is_for_the_inside_stays_there(proxy: Proxy, server: Server) -> None:
    assert patient.get(f"{server.url}/metrics").status_code == 200
    with proxy.client as client:
        assert client.get("/metrics").status_code == 404


@pytest.mark.exhaustive
def test_the_service_is_told_the_port_that_a_browser_asked(tiny_home: Path, tmp_path: Path) -> None:
    """The page of reviews refuses what comes from another origin than its own."""
    settings = {
        "VGG19_ADMIN_KEY": hashlib.sha256(b"secret").hexdigest(),
        "VGG19_CAPTURE_URL": str(tmp_path / "captured"),
        "VGG19_REVIEW": str(tmp_path / "review"),
    }
    with serve(tiny_home, tmp_path / "log", **settings) as server, nginx(server, tmp_path) as proxy:
        origin = f"https://localhost:{proxy.port}"
        headers = {"Authorization": "Bearer secret", "x-review": "1", "Origin": origin}
        with proxy.client as client:
            reply = client.get("/review/api/overview", headers=headers)
            assert "nothing at" in reply.json()["detail"]  # is captured yet
            headers["Origin"] = "https://localhost:1"
            assert client.get("/review/api/overview", headers=headers).status_code == 403


def test_headers_that_trickle_in_end_at_the_proxy(proxy: Proxy) -> None:
    context = ssl.create_default_context()
    proxy.authority.configure_trust(context)
    with (
        socket.create_connection(("127.0.0.1", proxy.port), timeout=HANG_S) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        connection.sendall(b"GET /model HTTP/1.1\r\nHost: localhost\r\nX-A")
        assert connection.recv(1000) == b""  # closed, without a word


# What a client may write of itself, in any header that some server believes somewhere.
LIES = [
    {"X-Forwarded-For": "198.51.100.1"},
    {"X-Forwarded-For": "198.51.100.1, 127.0.0.1"},
    {"X-Forwarded-For": "127.0.0.1"},
    {"X-Forwarded-For": "::1"},
    {"X-Forwarded-For": "x" * 4000},
    {"X-Forwarded-For": ", , ,"},
    {"x-forwarded-for": "198.51.100.1:80", "X-FORWARDED-FOR": "198.51.100.2"},
    {"X-Forwarded-For": "198.51.100.1", "X-Forwarded-Proto": "http"},
    {"Forwarded": "for=198.51.100.1;proto=http"},
    {"X-Real-IP": "198.51.100.1"},
    {"True-Client-IP": "198.51.100.1"},
    {"CF-Connecting-IP": "198.51.100.1"},
    {"X-Client-IP": "198.51.100.1"},
    {"X-Forwarded-Host": "198.51.100.1", "X-Forwarded-Port": "1"},
    {"X_Forwarded_For": "198.51.100.1"},
]
LIMITED = {"VGG19_RATE_LIMIT": "0.001", "VGG19_RATE_LIMIT_BURST": "3"}
TRUSTING = {"VGG19_TRUSTED_PROXIES": "127.0.0.1"}


def ask_over_http(address: str, lie: dict[str, str]) -> int:
    with patient.client() as client:
        return client.post(f"{address}/classify", content=IMAGE, headers=PNG | lie).status_code


def ask_over_grpc(channel: grpc.Channel, lie: dict[str, str]) -> grpc.StatusCode:
    metadata = tuple((name.lower(), value) for name, value in lie.items())
    try:
        GRPCInferenceServiceStub(channel).ModelInfer(
            infer_request(IMAGE), metadata=metadata, timeout=HANG_S
        )
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, id="nobody trusted", marks=pytest.mark.exhaustive),
        pytest.param(TRUSTING, id="nginx trusted"),
    ],
)
def test_through_nginx_a_client_is_who_connects_whatever_it_writes(
    settings: dict[str, str], tiny_home: Path, tmp_path: Path
) -> None:
    """Two clients of 127.0.0.2 and 127.0.0.3, where the proxy itself is 127.0.0.1."""
    with (
        serve(tiny_home, tmp_path / "log", **LIMITED, **settings) as server,
        nginx(server, tmp_path) as proxy,
    ):
        context = ssl.create_default_context()
        proxy.authority.configure_trust(context)
        by_client = {}
        for client in ("127.0.0.2", "127.0.0.3"):
            transport = httpx.HTTPTransport(verify=context, local_address=client)
            with patient.client(transport=transport) as sender:
                url = f"https://localhost:{proxy.port}/classify"
                replies = [sender.post(url, content=IMAGE, headers=PNG | lie) for lie in LIES]
                by_client[client] = [reply.status_code for reply in replies]
        credentials = grpc.ssl_channel_credentials(proxy.authority.cert_pem.bytes())
        with grpc.secure_channel(f"localhost:{proxy.port}", credentials) as channel:
            over_grpc = [ask_over_grpc(channel, lie) for lie in LIES]
        lines = server.access_log(3 * len(LIES))
    refused = [429] * (len(LIES) - 3)
    ok, exhausted = grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED
    if settings:
        assert list(by_client.values()) == [[200] * 3 + refused] * 2
        assert over_grpc == [ok] * 3 + [exhausted] * (len(LIES) - 3)
        assert {line["client"] for line in lines} == {"127.0.0.1", "127.0.0.2", "127.0.0.3"}
    else:  # all are the proxy, which is one client
        assert list(by_client.values()) == [[200] * 3 + refused, [429] * len(LIES)]
        assert over_grpc == [exhausted] * len(LIES)
        assert {line["client"] for line in lines} == {"127.0.0.1"}
    assert len(lines) == 3 * len(LIES)
    assert "198.51.100" not in json.dumps(lines)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, marks=pytest.mark.exhaustive),
        {"VGG19_TRUSTED_PROXIES": "192.0.2.0/24"},
        TRUSTING,
    ],
)
def test_past_the_proxy_only_a_trusted_peer_is_believed(
    settings: dict[str, str], tiny_home: Path, tmp_path: Path
) -> None:
    """uvicorn and others would believe any peer at 127.0.0.1."""
    with serve(tiny_home, tmp_path / "log", **LIMITED, **settings) as server:
        http = [ask_over_http(server.url, lie) for lie in LIES]
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            over_grpc = [ask_over_grpc(channel, lie) for lie in LIES]
        lines = server.access_log(2 * len(LIES))
    clients = {line["client"] for line in lines}
    assert all(len(client) <= 45 for client in clients)
    if settings == TRUSTING:
        assert "198.51.100.1" in clients
    else:
        assert clients == {"127.0.0.1"}
        assert http == [200] * 3 + [429] * (len(LIES) - 3)
        assert over_grpc == [grpc.StatusCode.RESOURCE_EXHAUSTED] * len(LIES)


def test_behind_two_proxies_the_right_most_stranger_counts(tiny_home: Path, tmp_path: Path) -> None:
    """The second one adds whom it saw to what the first one says."""
    adding = ("X-Forwarded-For $remote_addr", "X-Forwarded-For $proxy_add_x_forwarded_for")
    with (
        serve(tiny_home, tmp_path / "log", VGG19_TRUSTED_PROXIES="127.0.0.1,127.0.0.9") as server,
        nginx(server, tmp_path, adding) as proxy,
    ):
        context = ssl.create_default_context()
        proxy.authority.configure_trust(context)
        for address in ("127.0.0.9", "127.0.0.2"):  # the first proxy, and somebody else
            transport = httpx.HTTPTransport(verify=context, local_address=address)
            with patient.client(transport=transport) as sender:
                said = {"X-Forwarded-For": "198.51.100.1, 203.0.113.7"}
                url = f"https://localhost:{proxy.port}/classify"
                assert sender.post(url, content=IMAGE, headers=PNG | said).status_code == 200
        assert [line["client"] for line in server.access_log(2)] == ["203.0.113.7", "127.0.0.2"]
