"""Forms, byte by byte as clients write them, and by clients themselves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core.dataplane import DataPlane
from serving.http.form import readable
from testing.images import coloured_pixels, encode
from tests.serving.http.listening import listening
from tests.serving.http.test_app import app_of, check_problem

IMAGE = encode(coloured_pixels(1))
FORM = {"Content-Type": "multipart/form-data; boundary=x"}


@pytest.fixture
async def client(classifier: DataPlane) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app_of(classifier))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


def part(disposition: str, content: bytes = IMAGE, *headers: str) -> bytes:
    lines = [f"Content-Disposition: form-data; {disposition}", *headers]
    head = "\r\n".join(lines).encode()
    return b"--x\r\n" + head + b"\r\n\r\n" + content + b"\r\n"


FILES = [
    ('name="image"; filename="a.png"', (), "a.png"),
    ("name=image; filename=a.png", (), "a.png"),
    ('name="image"; filename="röse 1.png"', (), "röse 1.png"),
    ('name="image"; filename=""', ("Content-Type: image/png",), ""),
    ('name="image"', ("Content-Type: image/png",), None),
    ('name="image"', ("content-type:IMAGE/PNG",), None),
    ('name="image"', ("Content-Type: application/octet-stream",), None),
    ('name="image"', ("X-Other: 1", "Content-Type: image/png; a=b"), None),
    ("name=image", ("Content-Type: image/png",), None),
    ('name="image";', ("Content-Type: image/png",), None),
    ("name=\"image\"; filename*=utf-8''r%C3%B6se%201.png", (), "röse 1.png"),
    ("name=\"image\"; filename*=UTF-8'de'r%C3%B6se.png", ("Content-Type: image/png",), "röse.png"),
    ("name=\"image\"; filename*=iso-8859-1''r%F6se.png", (), "röse.png"),
    ("filename*=utf-8''a.png; name=\"image\"", (), "a.png"),
    ("name=\"image\"; FileName*=utf-8''a.png", (), "a.png"),
    ('name="image"; filename*0="a b"; filename*1=".png"', (), "a b.png"),
    ("name=\"image\"; filename*0*=utf-8''r%C3%B6; filename*1=se.png", (), "röse.png"),
    # What is plain counts where there are both (RFC 7578, 4.2).
    ("name=\"image\"; filename=\"a.png\"; filename*=utf-8''b.png", (), "a.png"),
    ("name=\"image\"; filename*=no-such-charset''a.png", (), "a.png"),
    ('name="image"; filename="r%C3%B6se%201.png"', (), "röse 1.png"),
    ('name="image"; filename="%E8%8A%B1.png"', (), "花.png"),
    ('name="image"; filename="100%.png"', (), "100%.png"),
    ('name="image"; filename="a b%20c.png"', (), "a b%20c.png"),
    ('name="image"; filename="%22quoted%22 as browsers do.png"', (),
     "%22quoted%22 as browsers do.png"),
    ('name="image"; filename="%c3%b6.png"', (), "%c3%b6.png"),
    ('name="image"; filename="%FF%FE.png"', (), "%FF%FE.png"),
    ('name="image"; filename="line%0Abreak.png"', (), "line%0Abreak.png"),
]  # fmt: skip


@pytest.mark.parametrize(("disposition", "headers", "name"), FILES)
async def test_what_is_a_file_and_its_name(
    client: httpx.AsyncClient, disposition: str, headers: tuple[str, ...], name: str | None
) -> None:
    body = part(disposition, IMAGE, *headers) + b"--x--\r\n"
    response = await client.post("/classify", content=body, headers=FORM)
    assert response.status_code == 200, response.text
    (image,) = response.json()["images"]
    assert image["filename"] == name
    assert image["predictions"]


@pytest.mark.parametrize(
    "headers",
    [(), ("Content-Type: text/plain",), ("Content-Type: text/plain; charset=utf-8",),
     ("Content-Type: application/json",), ("Content-Type:",)],
)  # fmt: skip
async def test_fields_stay_fields(client: httpx.AsyncClient, headers: tuple[str, ...]) -> None:
    """C# and Java type them as well."""
    fields = part('name="top_k"', b"1", *headers) + part('name="explain"', b"True", *headers)
    body = fields + part('name="image"', IMAGE, "Content-Type: image/png") + b"--x--\r\n"
    response = await client.post("/classify", content=body, headers=FORM)
    assert response.status_code == 200, response.text
    (image,) = response.json()["images"]
    assert len(image["predictions"]) == 1
    assert "heatmap" in image


@pytest.mark.parametrize("headers", [(), ("Content-Type: text/plain",), ("Content-Type: ",)])
async def test_an_image_as_a_text_is_none(
    client: httpx.AsyncClient, headers: tuple[str, ...]
) -> None:
    body = part('name="image"', b"http://127.0.0.1/", *headers) + b"--x--\r\n"
    response = await client.post("/classify", content=body, headers=FORM)
    check_problem(response, 422, "one or more file parts named 'image'")


@pytest.mark.parametrize(
    "name",
    [
        "=undefined''a.png",
        "=idna''%C3",
        "=punycode''%C3%FF",
        "=a%00b''c",
        "=utf-7''+2AA-",
        "99999999999999999999=a; filename*=utf-8''b",
        "",
        "=",
        "0*",
        "=utf-8",
        "=utf-8'",
        "=utf-16''%00%D8",
        "*=a",
        "0=a; filename*2=b",
    ],
)
async def test_extended_names_that_are_none(client: httpx.AsyncClient, name: str) -> None:
    body = part(f'name="image"; filename*{name}') + b"--x--\r\n"
    response = await client.post("/classify", content=body, headers=FORM)
    if response.status_code == 200:
        response.json()
    else:
        check_problem(response, 422, "one or more file parts named 'image'")


async def test_typed_parts_count_as_files(client: httpx.AsyncClient) -> None:
    body = part('name="image"', b"", "Content-Type: image/png") * 9 + b"--x--\r\n"
    check_problem(await client.post("/classify", content=body, headers=FORM), 400, "Too many files")


@given(st.text(), st.booleans())
def test_any_name_that_was_encoded_comes_back(name: str, is_left: bool) -> None:
    try:
        encoded = aiohttp.helpers.content_disposition_header("form-data", filename=name)
    except (UnicodeEncodeError, ValueError):
        return  # aiohttp can't send it either
    sent = encoded.partition('filename="')[2][:-1]
    assert readable(sent) == (name if name.isprintable() else sent)
    readable(name[::-1] if is_left else name)  # whatever it is


async def send_with_aiohttp(url: str, form: Any) -> dict[str, Any]:
    async with aiohttp.ClientSession() as session, session.post(url, data=form) as response:
        reply: dict[str, Any] = await response.json()
        assert response.status == 200, reply
        return reply


@pytest.mark.parametrize("name", ["a.png", "röse 1.png", "花 & (x).png", "100% + 1.png", 'q"q.png'])
@pytest.mark.parametrize("quotes", [True, False])
async def test_aiohttp(classifier: DataPlane, name: str, quotes: bool) -> None:
    form = aiohttp.FormData(quote_fields=quotes)
    form.add_field("image", IMAGE, filename=name, content_type="image/png")
    form.add_field("top_k", "1")
    async with listening(app_of(classifier)) as port:
        reply = await send_with_aiohttp(f"http://127.0.0.1:{port}/classify", form)
    assert [image["filename"] for image in reply["images"]] == [name]
