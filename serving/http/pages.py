"""The page at `/`, which classifies images in a browser and shows production."""

from __future__ import annotations

from pathlib import Path

from starlette.routing import Route

from web.static_files import BASE_STYLE, file_routes

_DIRECTORY = Path(__file__).parent / "ui"
_INDEX = "index.html"
_BESIDE = (
    "style.css",
    "icon.svg",
    "page.js",
    "api.js",
    "cards.js",
    "csv.js",
    "heat.js",
    "folders.js",
    "production.css",
    "production.js",
    "tabs.js",
    "charts.js",
    "drift.js",
    "admin.js",
    "rollback.js",
    "rollout.js",
)
PATHS = {
    "/": _DIRECTORY / _INDEX,
    "/ui/base.css": BASE_STYLE,
    **{f"/ui/{name}": _DIRECTORY / name for name in _BESIDE},
}


def routes() -> list[Route]:
    return file_routes(PATHS)
