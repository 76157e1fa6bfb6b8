"""What the HTML reports are made of: one style, tables, tiles, pictures, all in one file."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.errors import ImageError
from models.imaging.image import load_image
from models.imaging.preprocessing import Preprocessing
from models.text import shown

_THUMBNAIL_PIXELS = 112
# Whatever a model sees of it, a person who judges an image is shown all of it.
_ALL_OF_IT = Preprocessing(image_size=_THUMBNAIL_PIXELS, resize="pad")

PAGE_STYLE = """
:root { color-scheme: light }
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2328; margin: 0 auto; max-width: 1080px;
  padding: 2rem 1.5rem 4rem }
h1 { font-size: 1.7rem; margin: 0 0 .2rem } h2 { font-size: 1.15rem; margin: 2.4rem 0 .8rem }
p.sub { color: #656d76; margin: 0 0 1.5rem }
p.warning { border-left: 4px solid #cf222e; padding: .4rem 1rem; margin: 0 0 1rem }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: .8rem }
.tile { border: 1px solid #d8dee4; border-radius: 8px; padding: .7rem .9rem }
.tile b { display: block; font-size: 1.5rem; font-variant-numeric: tabular-nums }
.tile span { color: #656d76; font-size: .85rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem }
th, td { padding: .25rem .8rem .25rem 0; text-align: right; border-bottom: 1px solid #eaeef2 }
th:first-child, td:first-child { text-align: left; overflow-wrap: anywhere }
th { color: #656d76; font-weight: 600 }
img.plot { max-width: 100%; height: auto }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(420px, 1fr)); gap: 1rem }
.mistakes { display: grid; grid-template-columns: repeat(auto-fill, minmax(236px, 1fr)); gap: 1rem }
.mistakes figure { margin: 0; font-size: .8rem; line-height: 1.35; overflow-wrap: anywhere }
.mistakes img { width: 112px; height: 112px; border-radius: 6px; image-rendering: auto }
.mistakes .pair { display: flex; gap: 4px; margin-bottom: .3rem }
.mistakes .was { color: #1a7f37 } .mistakes .said { color: #cf222e }
"""


def text(value: object) -> str:
    """Text as HTML, in an element or a quoted attribute; what can't be seen is escaped."""
    return html.escape(shown(value))


def tile(name: str, value: str) -> str:
    """A number with its name below it."""
    return f'<div class="tile"><b>{text(value)}</b><span>{text(name)}</span></div>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of plain text."""

    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{text(c)}</{tag}>" for c in cells) + "</tr>"

    return f"<table>{line(head, 'th')}{''.join(line(row, 'td') for row in rows)}</table>"


def picture(pixels: NDArray[np.uint8]) -> str:
    """A thumbnail of uint8[H,W,3] as the base64 of a PNG."""
    size = (_THUMBNAIL_PIXELS, _THUMBNAIL_PIXELS)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def picture_of(path: Path) -> str:
    """A thumbnail of all of an image file, as the address of an <img>; empty once it is gone."""
    try:
        return f"data:image/png;base64,{picture(load_image(path, _ALL_OF_IT))}"
    except ImageError:
        return "data:,"
