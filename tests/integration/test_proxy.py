"""deploy/nginx.conf in front of a running service."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import pytest
import trustme

from benchmarks.load import infer_request
from protocol.open_inference_pb2_grpc import GRPCInferenceServiceStub
from testing.commands import free_port
from testing.images import coloured_pixels, encode
from testing.server import ROOT, Server

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx (Debian's nginx-light) isn't here")
IMAGE = encode(coloured_pixels(2))
PNG = {"Content-Type": "image/png"}


@dataclass(frozen=True)
class Proxy:
    port: int
    authority: trustme.CA

    @property
    def client(self) -> httpx.Client:
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        return httpx.Client(base_url=f"https://localhost:{self.port}", verify=context, timeout=60)


@pytest.fixture(scope="module")
def proxy(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    place, port, authority = tmp_path_factory.mktemp("nginx"), free_port(), trustme.CA()
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
        process.wait(timeout=30)


def temporary_paths(place: Path) -> str:
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    return " ".join(f"{kind}_temp_path {place}/{kind};" for kind in kinds)


def wait_for(port: int) -> None:
    for _ in range(100):
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
        answer = GRPCInferenceServiceStub(channel).ModelInfer(infer_request(IMAGE), timeout=30)
    assert answer.model_version == reply.json()["model_version"]


def test_what_is_for_the_inside_stays_there(proxy: Proxy, server: Server) -> None:
    assert httpx.get(f"{server.url}/metrics").status_code == 200
    with proxy.client as client:
        assert client.get("/metrics").status_code == 404


def test_headers_that_trickle_in_end_at_the_proxy(proxy: Proxy) -> None:
    context = ssl.create_default_context()
    proxy.authority.configure_trust(context)
    with (
        socket.create_connection(("127.0.0.1", proxy.port), timeout=30) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        connection.sendall(b"GET /model HTTP/1.1\r\nHost: localhost\r\nX-A")
        assert connection.recv(1000) == b""  # closed, without a word
