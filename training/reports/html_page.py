"""HTML reports: templates, and what they are given. A page is one file, pictures included."""

from __future__ import annotations

import base64
import io
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from models.errors import ImageError
from models.imaging.image import load_image
from models.imaging.preprocessing import Preprocessing
from models.text import shown

_THUMBNAIL_PIXELS = 112
# Whatever a model sees of it, a person who judges an image is shown all of it.
_ALL_OF_IT = Preprocessing(image_size=_THUMBNAIL_PIXELS, resize="pad")


def render(template: str, **values: Any) -> str:
    """A page of `templates/`. Values are text, whatever they hold: what can't be seen is written as
    an escape, then all is escaped as HTML.

    Raises:
        jinja2.UndefinedError: the template uses a value that isn't given.
    """
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("training.reports"),
        autoescape=True,
        finalize=lambda value: value if isinstance(value, Markup) else shown(value),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "png": png_address,
        "thumbnail": lambda path: thumbnail(Path(path)),
        "file_name": lambda path: Path(path).name,
        "sentence": lambda words: f"{words[0].upper()}{words[1:]}",
    }
    return environment


def png_address(content: bytes) -> str:
    """A PNG as the address of an `<img>`."""
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def picture(pixels: NDArray[np.uint8]) -> bytes:
    """A thumbnail of uint8[H,W,3], as PNG."""
    size = (_THUMBNAIL_PIXELS, _THUMBNAIL_PIXELS)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()


def thumbnail(path: Path) -> str:
    """All of an image file, as the address of an `<img>`; an empty one once the file is gone."""
    try:
        return png_address(picture(load_image(path, _ALL_OF_IT)))
    except ImageError:
        return "data:,"
