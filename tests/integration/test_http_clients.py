"""HTTP as clients speak it, to a running service with keys and an allowed origin."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from testing import patient
from testing.images import coloured_pixels, encode
from testing.server import ROOT, Server, serve
from testing.waiting import HANG_S

KEY, PAGE = "key", "https://app.example.org"
IMAGE = encode(coloured_pixels(3))
HEADERS = {"Authorization": f"Bearer {KEY}", "Content-Type": "image/png"}


@pytest.fixture(scope="module")
def service(tiny_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("http") / "log"
    keys = hashlib.sha256(KEY.encode()).hexdigest()
    with serve(tiny_home, log, VGG19_API_KEYS=keys, VGG19_CORS_ORIGINS=PAGE) as server:
        yield server


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("image") / "röse 1.png"
    path.write_bytes(IMAGE)
    return path


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl isn't here")
@pytest.mark.parametrize(
    "body",
    [
        ["-H", "Content-Type: image/png", "--data-binary", "@{}"],
        [
            "-H",
            "Content-Type: image/png",
            "-H",
            "Transfer-Encoding: chunked",
            "--data-binary",
            "@{}",
        ],
        ["-F", "image=@{}"],
        ["-F", "image=@{};type=image/png;filename="],
        ["-H", "Content-Type: image/png", "-H", "Expect: 100-continue", "--data-binary", "@{}"],
    ],
    ids=["raw", "chunked", "form", "no file name", "expect"],
)
@pytest.mark.parametrize("version", ["--http1.0", "--http1.1", "--http2"])
def test_curl(service: Server, image: Path, version: str, body: list[str]) -> None:
    """Twice on one connection."""
    arguments = [part.format(image) for part in body]
    url = f"{service.url}/classify/"
    command = ["curl", "-sS", version, "-H", f"Authorization: Bearer {KEY}", *arguments, url]
    command += ["--next", *command[1:]]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=HANG_S)
    assert result.stdout.count('"predictions"') == 2, result.stdout


@pytest.mark.skipif(shutil.which("java") is None, reason="Java isn't here")
def test_java(service: Server, image: Path, tmp_path: Path) -> None:
    """Its client as it comes, which asks for h2c; an answer before the body is read, too."""
    source = ROOT / "tests" / "integration" / "JavaClient.java"
    url = f"{service.url}/classify"
    for key, expected in ((KEY, "200"), ("none", "401")):
        command = ["java", f"-Djava.io.tmpdir={tmp_path}", str(source), url, str(image), "5", key]
        result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=HANG_S)
        assert result.stdout.split() == [expected] * 5
    assert "Invalid HTTP request" not in service.log.read_text()


def test_a_body_is_no_second_request(service: Server) -> None:
    stolen = b"GET /labels HTTP/1.1\r\nHost: x\r\n\r\n"
    head = (
        "POST /classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
        f"Authorization: Bearer {KEY}\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        f"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\nContent-Length: {len(stolen)}\r\n\r\n"
    )
    last = b"GET /v2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    address = ("127.0.0.1", service.http_port)
    for pieces in ((head.encode() + stolen, last), (head.encode(), stolen, last)):
        with socket.create_connection(address, timeout=HANG_S) as connection:
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(0.05)
            received = b"".join(iter(lambda: connection.recv(65536), b""))
        assert received.count(b"HTTP/1.1 ") == 2
        assert b"not an image" in received
        assert b"vgg19-finetune" in received


def test_an_idle_connection_is_kept_for_longer_than_uvicorn_would(service: Server) -> None:
    request = b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n"
    with socket.create_connection(("127.0.0.1", service.http_port), timeout=HANG_S) as connection:
        for seconds in (6, 0):
            connection.sendall(request)
            answer = b""
            while b"statistics" not in answer:  # the end of the body may come by itself
                piece = connection.recv(65536)
                assert piece, "the connection was closed"
                answer += piece
            assert answer.startswith(b"HTTP/1.1 200 OK")
            time.sleep(seconds)


def test_compressed(service: Server) -> None:
    headers = HEADERS | {"Content-Encoding": "gzip"}
    url = f"{service.url}/classify"
    assert patient.post(url, content=gzip.compress(IMAGE), headers=headers).status_code == 200
    bomb = gzip.compress(bytes(100_000_000), 1)
    assert patient.post(url, content=bomb, headers=headers).status_code == 413
    other = patient.post(url, content=IMAGE, headers=HEADERS | {"Content-Encoding": "br"})
    assert (other.status_code, other.headers["accept-encoding"]) == (415, "gzip, deflate")


@pytest.mark.parametrize("path", ["/classify", "/v2", "/livez", "/readyz", "/metrics", "/docs/"])
def test_a_page_of_another_origin(service: Server, path: str) -> None:
    asked = patient.preflight(
        service.url + path,
        headers={
            "Origin": PAGE,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type",
        },
    )
    answer = patient.get(service.url + path, headers={"Origin": PAGE})
    foreign = patient.get(service.url + path, headers={"Origin": "https://evil.example"})
    assert asked.status_code == 200
    for reply in (asked, answer):
        assert reply.headers["access-control-allow-origin"] == PAGE
    assert "access-control-allow-origin" not in foreign.headers
