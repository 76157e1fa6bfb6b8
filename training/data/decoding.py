"""What decides the pixels that an image's file becomes, besides its bytes, the preprocessing and
Pillow's version: with another of these, some may differ."""

from __future__ import annotations

from importlib.metadata import version

from PIL import features

from models.imaging import resampling
from models.imaging.image import DECODE_RULE

# Where two versions may give different pixels for one file. What Pillow doesn't have is None.
_CODECS = ("libjpeg_turbo", "jpg", "webp")


def decoding() -> dict[str, str]:
    """JSON-ready, for the key of cached features and the provenance of a model."""
    codecs = {name: features.version(name) for name in _CODECS}
    return {
        "rule": str(DECODE_RULE),
        "resampler": _resampler(),
        **{name: number for name, number in codecs.items() if number is not None},
    }


def _resampler() -> str:
    """The one that `models.imaging.resampling` has found, and its version."""
    package = "pillow" if resampling.simd is None else "cykooz-resizer"
    return f"{package} {version(package)}"
