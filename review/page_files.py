"""The page's own files."""

from __future__ import annotations

from pathlib import Path

from starlette.routing import Route

from web.static_files import BASE_STYLE, file_routes

_DIRECTORY = Path(__file__).parent / "page"
_INDEX = "index.html"
_BESIDE = ("style.css", "icon.svg", "main.js", "api.js", "keys.js", "card.js", "grid.js", "side.js")
_FILES = {
    "/": _DIRECTORY / _INDEX,
    "/page/base.css": BASE_STYLE,
    **{f"/page/{name}": _DIRECTORY / name for name in _BESIDE},
}
# Browsers heed it on loopback and behind TLS and complain elsewhere; the service's page has none.
_HEADERS = {"Cross-Origin-Opener-Policy": "same-origin"}


def page_paths() -> frozenset[str]:
    """Of the files, which hold nothing that a key would have to guard."""
    return frozenset(_FILES)


def page_routes() -> list[Route]:
    return file_routes(_FILES, _HEADERS)
