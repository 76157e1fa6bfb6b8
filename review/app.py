"""The application: JSON for the page, images by their SHA-256, and the page itself.

No path of a client's reaches the file system: an image is asked for by a digest that is looked up,
and each of the page's files has its own route.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast, get_args

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from models.errors import ImageError, UserError
from review.desk import Card, Desk, NotNow, Queue, UnknownImage
from review.guard import Guard, Hosts
from review.journal import Decision, Kind
from review.page_files import page_paths, page_routes
from review.pictures import browser_picture, thumbnail

logger = logging.getLogger(__name__)

# Of a request's body: a thousand decisions, about.
_MAX_BODY = 1_000_000
_MAX_COUNT = 200
_PRIVATE = {
    "Cache-Control": "private, no-store",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; sandbox",
}
_STATUS: dict[type[UserError], int] = {UnknownImage: 404, NotNow: 409}

Answer = Callable[[Request], Awaitable[Response]]


class _BadRequest(UserError):
    """The body or the query isn't as the page sends it."""


def make_app(desk: Desk, hosts: Hosts, key: str | None = None) -> Starlette:
    """The page at `/`.

    Args:
        hosts: what it may be called, see `review.guard`.
        key: that it asks for; None: none.
    """
    api = _Api(desk)
    routes = [
        *page_routes(),
        Route("/api/overview", _told(api.overview)),
        Route("/api/queue", _told(api.queue)),
        Route("/api/group", _told(api.group)),
        Route("/api/cards/{image}", _told(api.card)),
        Route("/api/disagreements", _told(api.disagreements)),
        Route("/api/decisions", _told(api.decide), methods=["POST"]),
        Route("/api/jobs", _told(api.start), methods=["POST"]),
        Route("/images/{image}", _told(api.image)),
        Route("/thumbnails/{image}", _told(api.thumbnail)),
        Route("/heat/{image}", _told(api.heat_map)),
        Route("/export/{form}", _told(api.export)),
    ]
    guard = Middleware(Guard, hosts=hosts, key=key, public=page_paths())
    return Starlette(routes=routes, middleware=[guard])


def _told(answer: Answer) -> Answer:
    """What a person can put right is told in words."""

    async def told(request: Request) -> Response:
        try:
            return await answer(request)
        except UserError as error:
            status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 400)
            return _json({"detail": str(error)}, status)
        except OSError as error:  # of the disk that decisions go to
            words = f"nothing was saved: {error.strerror or error}"
            return _json({"detail": words}, 507)
        except Exception:
            logger.exception("%s can't be answered", request.url.path)
            return _json({"detail": "that failed, and nothing was saved; the log says why"}, 500)

    return told


@contextmanager
def _by_no_path(path: Path) -> Iterator[None]:
    """What is wrong with an image, by its name and not by where it lies: a service's directories
    are nobody's business who labels."""
    try:
        yield
    except ImageError as error:
        error.args = (f"{path.name}: " + str(error).removeprefix(f"{path}: "),)
        raise


class _Api:
    """Each method answers one route. The desk's may take a while, so each runs in a thread."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def overview(self, request: Request) -> Response:
        return _json(await run_in_threadpool(self._desk.overview))

    async def queue(self, request: Request) -> Response:
        which = request.query_params.get("which", "all")
        if which not in get_args(Queue):
            raise _BadRequest(f"which is '{which[:50]}', it must be {', '.join(get_args(Queue))}")
        tab, count = _tab(request), _count(request)
        cards = await run_in_threadpool(self._desk.queue, tab, which, count)  # type: ignore[arg-type]
        return _json({"cards": [card_json(card) for card in cards]})

    async def group(self, request: Request) -> Response:
        found = await run_in_threadpool(self._desk.group, _tab(request), _count(request))
        if found is None:
            return _json({"label": None, "cards": []})
        label, cards = found
        return _json({"label": label, "cards": [card_json(card) for card in cards]})

    async def card(self, request: Request) -> Response:
        return _json(card_json(await run_in_threadpool(self._desk.card, _image(request))))

    async def disagreements(self, request: Request) -> Response:
        cards = await run_in_threadpool(self._desk.disagreements)
        return _json({"cards": [card_json(card) for card in cards]})

    async def decide(self, request: Request) -> Response:
        body = await _body(request)
        decisions = [_decision(one) for one in _list(body.get("decisions"))]
        taken = await run_in_threadpool(self._desk.decide, decisions)
        return _json(
            {
                "taken": [
                    {"decision": asdict(one.decision), "standing": standing_json(one.standing)}
                    for one in taken
                ]
            }
        )

    async def start(self, request: Request) -> Response:
        job = (await _body(request)).get("job")
        await run_in_threadpool(self._desk.start, str(job))
        return _json(await run_in_threadpool(self._desk.overview))

    async def image(self, request: Request) -> Response:
        path = await run_in_threadpool(self._desk.path, _image(request))
        with _by_no_path(path):
            picture = await run_in_threadpool(browser_picture, path)
        if picture.content is None:
            return FileResponse(path, media_type=picture.media_type, headers=_PRIVATE)
        return Response(picture.content, media_type=picture.media_type, headers=_PRIVATE)

    async def thumbnail(self, request: Request) -> Response:
        path = await run_in_threadpool(self._desk.path, _image(request))
        with _by_no_path(path):
            content = await run_in_threadpool(thumbnail, path)
        return Response(content, media_type="image/png", headers=_PRIVATE)

    async def heat_map(self, request: Request) -> Response:
        label = request.query_params.get("label", "")
        path = await run_in_threadpool(self._desk.path, _image(request))
        with _by_no_path(path):
            content = await run_in_threadpool(self._desk.heat_map, _image(request), label)
        return Response(content, media_type="image/png", headers=_PRIVATE)

    async def export(self, request: Request) -> Response:
        name, content = await run_in_threadpool(self._desk.export, request.path_params["form"])
        headers = _PRIVATE | {"Content-Disposition": f'attachment; filename="{name}"'}
        return Response(content, media_type="application/octet-stream", headers=headers)


def card_json(card: Card) -> dict[str, Any]:
    """As the page reads it."""
    return asdict(card) | {"standing": standing_json(card.standing)}


def standing_json(standing: Any) -> dict[str, Any]:
    """With what its properties say."""
    return asdict(standing) | {"revision": standing.revision, "disputed": standing.disputed}


def _json(content: dict[str, Any], status: int = 200) -> Response:
    """In ASCII: names of files may hold any bytes, and what people type anything that JSON does,
    lone surrogates as well, which UTF-8 has no form for."""
    return Response(json.dumps(content), status, _PRIVATE, "application/json")


def _image(request: Request) -> str:
    return str(request.path_params["image"])


def _tab(request: Request) -> str:
    return request.query_params.get("tab", "")[:64]


def _count(request: Request) -> int:
    text = request.query_params.get("count", "8")
    if not (text.isdecimal() and text.isascii() and 0 < int(text[:9]) <= _MAX_COUNT):
        raise _BadRequest(f"count is '{text[:50]}', it must be a number from 1 to {_MAX_COUNT}")
    return int(text)


async def _body(request: Request) -> dict[str, Any]:
    """The JSON object that a request carries."""
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > _MAX_BODY:
            raise _BadRequest(f"the body has more than the limit of {_MAX_BODY:,} bytes")
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        raise _BadRequest("the body is not JSON") from None
    if not isinstance(body, dict):
        raise _BadRequest("the body is not a JSON object")
    return body


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise _BadRequest("decisions must be a list with one at least")
    return value


def _decision(value: Any) -> Decision:
    """Of what the page sends; the revision and the time are the journal's to give."""
    if not isinstance(value, dict):
        raise _BadRequest("a decision must be a JSON object")
    image, kind, who, label = (value.get(name) for name in ("image", "kind", "who", "label"))
    base, undoes = value.get("base", 0), value.get("undoes")
    if not (isinstance(image, str) and isinstance(kind, str) and isinstance(who, str)):
        raise _BadRequest("a decision needs image, kind and who, each a text")
    if not isinstance(label, str | None):
        raise _BadRequest("label must be a text, or null")
    if type(base) is not int or type(undoes) not in (int, type(None)):
        raise _BadRequest("base and undoes are numbers of revisions")
    # Which kinds there are is the journal's to check.
    return Decision(
        image=image, kind=cast(Kind, kind), who=who, label=label, base=base, undoes=undoes
    )
