"""Forms as clients write them: which parts are files, and what they are called.

Starlette takes a part for a file if it has a `filename`. Some clients give only a type (C#'s and
Java's, by hand), or only `filename*` (older versions of urllib3), and aiohttp percent-encodes what
browsers and curl send as it is.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from email.message import Message
from http import HTTPStatus
from urllib.parse import quote, unquote

from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

IMAGE_FIELD = "image"
_TYPE, _TEXT = b"content-type", b"text/"


class FormParser(MultiPartParser):
    """As Starlette's, with more kinds of files, in memory."""

    # Starlette would write parts above 1 MB to /tmp, which in a container is memory all the same,
    # with a limit of its own; and all of them are read at once anyway. `serving.http.inflight`
    # bounds them.
    spool_max_size = 2**31

    def on_headers_finished(self) -> None:
        """Give what is a file without a plain name one, by which Starlette knows it."""
        part = self._current_part
        disposition = part.content_disposition or b""
        has_plain_name = b"filename=" in disposition.lower()
        name = None
        if not has_plain_name:
            name = _extended_name(disposition)
            if name is not None or _is_typed_image(disposition, part.item_headers):
                part.content_disposition = disposition.rstrip(b"; \t") + b'; filename=""'
        super().on_headers_finished()
        if part.file is not None:
            plain = part.file.filename or ""
            part.file.filename = readable(plain) if has_plain_name else name


@asynccontextmanager
async def parsed_form(request: Request, max_parts: int) -> AsyncIterator[FormData]:
    """The form that a body is, up to so many files and as many fields.

    Raises:
        HTTPException: 400, it is no form, or has more parts of a kind.
    """
    try:
        async with aclosing(request.stream()) as stream:
            parser = FormParser(request.headers, stream, max_files=max_parts, max_fields=max_parts)
            form = await parser.parse()
    except MultiPartException as error:
        raise HTTPException(HTTPStatus.BAD_REQUEST, error.message) from None
    try:
        yield form
    finally:
        await form.close()


def readable(name: str) -> str:
    """A file name that is what aiohttp makes of another one is that other one.

    A file that is really called so, as a%20b.png, is told as "a b.png" then; one with anything that
    aiohttp would have encoded (100% fit.png, 50%25 off.png) stays as it is.
    """
    if "%" not in name:
        return name
    decoded = unquote(name)
    return decoded if decoded.isprintable() and quote(decoded, safe="") == name else name


def _extended_name(disposition: bytes) -> str | None:
    """Of `filename*=utf-8''r%C3%B6se.png` or `filename*0=` and so on (RFC 2231, 8187)."""
    if b"filename*" not in disposition.lower():
        return None
    message = Message()
    try:
        message["Content-Disposition"] = disposition.decode("latin-1")
        name = message.get_filename()
    except (ValueError, TypeError, LookupError):  # numbers that don't fit, charsets that are none
        return None
    return name and name.encode("utf-8", "replace").decode()  # without halves of pairs


def _is_typed_image(disposition: bytes, headers: list[tuple[bytes, bytes]]) -> bool:
    """A part for images that says what it is; as text it is a field, which many clients type."""
    kind = next((value for name, value in headers if name == _TYPE), _TEXT).strip().lower()
    name = parse_options_header(disposition)[1].get(b"name")
    return name == IMAGE_FIELD.encode() and bool(kind) and not kind.startswith(_TEXT)
