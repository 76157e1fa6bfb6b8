"""Compressed bodies: what they decode to counts, and bombs are never there as a whole."""

from __future__ import annotations

import dataclasses
import gzip
import json
import random
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable

import httpx
import pytest

from serving.core.dataplane import DataPlane
from testing.images import coloured_pixels, encode
from tests.serving.conftest import LIMITS, StubModel
from tests.serving.http.test_app import app_of, check_problem

IMAGE = encode(coloured_pixels(1))
PNG = {"Content-Type": "image/png"}
INFER = "/v2/models/vgg19/infer"


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def members(data: bytes) -> bytes:
    return b"".join(gzip.compress(data[at : at + 50]) for at in range(0, len(data), 50))


def with_flushes(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=16 + zlib.MAX_WBITS)
    parts = [packer.compress(data[at : at + 9]) + packer.flush(zlib.Z_FULL_FLUSH)
             for at in range(0, len(data), 9)]  # fmt: skip
    return b"".join(parts) + packer.flush()


def small_window(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=9)
    return packer.compress(data) + packer.flush()


CODINGS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "its old name": ("x-gzip", gzip.compress),
    "capitals": (" GZip ", gzip.compress),
    "stored": ("gzip", lambda data: gzip.compress(data, 0)),
    "members": ("gzip", members),
    "flushes": ("gzip", with_flushes),
    "zlib": ("deflate", zlib.compress),
    "zlib, fast": ("Deflate", lambda data: zlib.compress(data, 1)),
    "zlib, small window": ("deflate", small_window),
    "raw deflate": ("deflate", raw_deflate),
    "identity": ("identity", bytes),
    "none": ("", bytes),
}


@pytest.fixture
async def client(classifier: DataPlane) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app_of(classifier))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


def form(*images: bytes) -> tuple[dict[str, str], bytes]:
    files = [("image", ("a.png", image)) for image in images]
    request = httpx.Request("POST", "http://test", files=files)
    return {"Content-Type": request.headers["content-type"]}, request.read()


def v2_json() -> tuple[dict[str, str], bytes]:
    tensor = {"name": "pixels", "datatype": "UINT8", "shape": [1, 32, 32, 3],
              "data": coloured_pixels(1).ravel().tolist()}  # fmt: skip
    return {"Content-Type": "application/json"}, json.dumps({"inputs": [tensor]}).encode()


async def in_pieces(data: bytes, size: int) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


def without_times(response: httpx.Response) -> object:
    return {k: v for k, v in response.json().items() if k != "timings_ms"}


@pytest.mark.parametrize("kind", CODINGS)
async def test_the_answer_is_that_of_the_plain_body(client: httpx.AsyncClient, kind: str) -> None:
    coding, pack = CODINGS[kind]
    for path, (headers, body) in (
        ("/classify", (PNG, IMAGE)),
        ("/classify", form(IMAGE, IMAGE)),
        (INFER, v2_json()),
    ):
        plain = await client.post(path, content=body, headers=headers)
        assert plain.status_code == 200, plain.text
        packed = pack(body)
        for size in (1 if len(packed) < 300 else 40, 1000, len(packed)):
            content = in_pieces(packed, size)
            response = await client.post(
                path, content=content, headers=headers | {"Content-Encoding": coding}
            )
            assert response.status_code == 200, response.text
            assert without_times(response) == without_times(plain)


@pytest.mark.parametrize(
    "coding", ["br", "zstd", "compress", "gzip, gzip", "deflate, gzip", "gzip, br", "*", "é" * 90]
)
@pytest.mark.parametrize("path", ["/classify", INFER, "/v2/repository/index", "/feedback"])
async def test_other_codings(classifier: DataPlane, coding: str, path: str) -> None:
    transport = httpx.ASGITransport(app_of(classifier))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        headers = [(b"Content-Encoding", coding.encode("latin-1")), (b"Content-Type", b"image/png")]
        response = await client.post(path, content=IMAGE, headers=headers)
    if path.startswith("/v2/repository"):
        assert response.status_code == 404  # there is no admin key, so no such route
        return
    check_problem(response, 415, "send gzip or deflate, one of them, or the body as it is")
    assert response.headers["accept-encoding"] == "gzip, deflate"


DAMAGED = {
    "no gzip": ("gzip", IMAGE),
    "zlib for gzip": ("gzip", zlib.compress(IMAGE)),
    "gzip for deflate": ("deflate", gzip.compress(IMAGE)),
    "plain text": ("deflate", b"plain text, which nobody compressed"),
    "cut off": ("gzip", gzip.compress(IMAGE)[:-9]),
    "a byte short": ("gzip", gzip.compress(IMAGE)[:-1]),
    "only a head": ("gzip", gzip.compress(IMAGE)[:10]),
    "one byte": ("gzip", b"\x1f"),
    "cut off, deflate": ("deflate", zlib.compress(IMAGE)[:-1]),
    "wrong sum": ("gzip", gzip.compress(IMAGE)[:-8] + bytes(8)),
    "wrong sum, deflate": ("deflate", zlib.compress(IMAGE)[:-4] + bytes(4)),
    "something behind": ("gzip", gzip.compress(IMAGE) + b"more"),
    "something behind deflate": ("deflate", zlib.compress(IMAGE) + b"more"),
    "a dictionary": ("deflate", b"\x78\xbb" + bytes(20)),
}


@pytest.mark.parametrize("kind", DAMAGED)
@pytest.mark.parametrize("path", ["/classify", INFER])
async def test_what_is_not_what_it_says(client: httpx.AsyncClient, kind: str, path: str) -> None:
    coding, body = DAMAGED[kind]
    headers = {"Content-Type": "application/octet-stream", "Content-Encoding": coding}
    for content in (body, in_pieces(body, 7)):
        response = await client.post(path, content=content, headers=headers)
        check_problem(response, 400, f"the body is not the {coding} that its Content-Encoding says")


async def test_any_bytes_are_answered(client: httpx.AsyncClient) -> None:
    chance = random.Random(3)
    for number in range(300):
        coding, pack = chance.choice(list(CODINGS.values()))
        body = bytearray(pack(IMAGE))
        for _ in range(chance.randint(1, 4)):
            body[chance.randrange(len(body))] = chance.randrange(256)
        headers = PNG | {"Content-Encoding": coding}
        response = await client.post("/classify", content=bytes(body), headers=headers)
        assert response.status_code in (200, 400, 413), (number, response.text)


async def test_an_empty_body_is_empty(client: httpx.AsyncClient) -> None:
    response = await client.post("/classify", headers=PNG | {"Content-Encoding": "gzip"})
    check_problem(response, 400, "the body is empty")


FORM = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'


def bomb(coding: str, beginning: bytes) -> bytes:
    """100 MB of zeros in 100 kB."""
    bits = zlib.MAX_WBITS + (16 if coding == "gzip" else 0)
    packer, million = zlib.compressobj(1, wbits=bits), bytes(1_000_000)
    pieces = [packer.compress(piece) for piece in (beginning, *[million] * 100)]
    return b"".join(pieces) + packer.flush()


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize(
    ("path", "headers", "limit"),
    [
        ("/classify", PNG, LIMITS.max_image_bytes),
        ("/classify", {"Content-Type": "multipart/form-data; boundary=x"},
         LIMITS.max_request_bytes),
        (INFER, {"Content-Type": "application/json"}, LIMITS.max_request_bytes),
        (INFER, {"Content-Type": "application/octet-stream"}, LIMITS.max_request_bytes),
    ],
)  # fmt: skip
async def test_bombs(
    classifier: DataPlane,
    monkeypatch: pytest.MonkeyPatch,
    coding: str,
    path: str,
    headers: dict[str, str],
    limit: int,
) -> None:
    """Refused by what they decode to, when a megabyte of it was there."""
    monkeypatch.setattr(
        classifier, "limits", dataclasses.replace(LIMITS, max_request_bytes=1_000_000)
    )
    limit = limit if limit == LIMITS.max_image_bytes else 1_000_000
    transport = httpx.ASGITransport(app_of(classifier))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        body = in_pieces(bomb(coding, FORM if "boundary" in str(headers) else b""), 65_536)
        tracemalloc.start()
        try:
            response = await client.post(
                path, content=body, headers=headers | {"Content-Encoding": coding}
            )
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    check_problem(response, 413, f"the limit is {limit:,} (VGG19_MAX_IMAGE_BYTES")
    assert peak < 8_000_000


@pytest.mark.parametrize("path", ["/classify", INFER])
async def test_bytes_without_end_that_decode_to_nothing(
    client: httpx.AsyncClient, path: str, model: StubModel
) -> None:
    headers = {"Content-Type": "application/octet-stream", "Content-Encoding": "gzip"}
    response = await client.post(
        path, content=in_pieces(gzip.compress(b"") * 50_000, 20_000), headers=headers
    )
    check_problem(response, 413, f"the limit is {LIMITS.max_request_bytes:,} (VGG19_MAX_REQUEST_")
    assert not model.batches
