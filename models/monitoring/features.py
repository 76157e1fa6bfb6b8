"""What is measured of each image and of the model's answer, and into which bins it is counted.

Bins are fixed, not taken from data: histograms of two models then compare, and the test of
`models.monitoring.sequential` is exact; with edges that depend on the reference it wouldn't be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from models.imaging.image import FORMATS, Decoded

# About so many pixels across and down are looked at for brightness and contrast: 15 us of an image,
# where all of the 224 take 520 us.
_GRID = 28
# What a camera calls JPEG, and Pillow MPO: several JPEGs in one file, of which the first counts.
_SAME_FORMAT = {"MPO": "JPEG"}
_FORMATS = (*FORMATS, "other")


@dataclass(frozen=True)
class Feature:
    """One thing that is measured.

    Args:
        name: as in metrics, JSON and settings. title: for people.
        edges: ascending, between the bins, in the unit of the values; bin i holds
            edges[i-1] <= value < edges[i]. Empty: the values are numbers of `categories`.
        categories: names of the bins of what has no order.
    """

    name: str
    title: str
    edges: tuple[float, ...] = ()
    categories: tuple[str, ...] = ()

    @property
    def is_ordinal(self) -> bool:
        return bool(self.edges)

    @property
    def bins(self) -> int:
        return len(self.edges) + 1 if self.edges else len(self.categories)

    def bin_of(self, values: NDArray[np.floating]) -> NDArray[np.intp]:
        """The bin of each value, -1 where it is NaN.

        Args:
            values: float[N].

        Returns:
            intp[N], -1..bins-1.
        """
        known = ~np.isnan(values)
        if self.edges:
            found = np.searchsorted(np.asarray(self.edges), values, side="right")
        else:
            found = np.where(known, values, 0).astype(np.intp)
        return np.where(known, found, -1)


def _steps(low: float, high: float, step: float) -> NDArray[np.float64]:
    return np.arange(low, high + step / 2, step)


def _tuple(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(values.tolist())


# In log-odds: most confidences are so near 1 that equal steps would put them all into one bin. From
# 1% to 1 - 1e-5; the tables of `vgg19 predict` have six digits.
_CONFIDENCE = _tuple(1 / (1 + 10 ** -_steps(-2, 5, 0.125)))
# From a thirtieth of the limit to thirty times it.
_DISTANCE = _tuple(10 ** _steps(-1.5, 1.5, 0.05))
_BRIGHTNESS = _tuple(_steps(4, 252, 4))
_CONTRAST = _tuple(_steps(2, 126, 2))
# From 1:4 to 4:1; a sixteenth of an octave is 4%, so 4:3 and 3:2 are two bins.
_ASPECT_RATIO = _tuple(2 ** _steps(-2 - 1 / 32, 2 + 1 / 32, 1 / 16))
# From 0.0001 (10 x 10) to 100 megapixels, 8 bins to a factor of 10.
_MEGAPIXELS = _tuple(10 ** _steps(-4, 2, 0.125))
# From 1 (quality 100 of libjpeg) to 255 (10 and below); 85 and 90 are two bins, 90 and 92 as well.
_QUANTIZATION = _tuple(2 ** _steps(1 / 8, 8 - 1 / 8, 1 / 4))

# The order of the columns of what is measured.
NAMES = (
    "confidence", "distance", "label", "accepted", "brightness", "contrast", "aspect_ratio",
    "size", "format", "quantization",
)  # fmt: skip


def features_of(labels: Sequence[str]) -> tuple[Feature, ...]:
    """All features, for a model with these labels, in the order of `NAMES`."""
    return (
        Feature("confidence", "confidence", _CONFIDENCE),
        Feature("distance", "distance from the training images", _DISTANCE),
        Feature("label", "predicted label", categories=tuple(labels)),
        Feature("accepted", "accepted", categories=("no", "yes")),
        Feature("brightness", "brightness (0 to 255)", _BRIGHTNESS),
        Feature("contrast", "contrast (standard deviation, 0 to 128)", _CONTRAST),
        Feature("aspect_ratio", "aspect ratio (width to height)", _ASPECT_RATIO),
        Feature("size", "size (megapixels)", _MEGAPIXELS),
        Feature("format", "file format", categories=_FORMATS),
        Feature("quantization", "JPEG quantization (mean step, 1 to 255)", _QUANTIZATION),
    )


@dataclass(frozen=True)
class ImageMeasures:
    """What an image says by itself. None: a client sent pixels, which tell no more.

    brightness, contrast: mean and standard deviation of the model's pixels, 0..255 and 0..127.5.
    aspect_ratio: width to height, upright. megapixels: of the file. format: a number of `FORMATS`.
    quantization: of a JPEG, see `Decoded`; NaN: it is none.
    """

    brightness: float
    contrast: float
    aspect_ratio: float = np.nan
    megapixels: float = np.nan
    format: float = np.nan
    quantization: float = np.nan

    @classmethod
    def of_pixels(cls, pixels: NDArray[np.uint8]) -> ImageMeasures:
        """Of uint8[S,S,3]."""
        return cls(*_brightness_and_contrast(pixels))

    @classmethod
    def of(cls, image: Decoded) -> ImageMeasures:
        name = _SAME_FORMAT.get(image.format, image.format)
        return cls(
            *_brightness_and_contrast(image.pixels),
            image.width / image.height,
            image.width * image.height / 1e6,
            _FORMATS.index(name) if name in _FORMATS else len(_FORMATS) - 1,
            np.nan if image.quantization is None else image.quantization,
        )


def _brightness_and_contrast(pixels: NDArray[np.uint8]) -> tuple[float, float]:
    step = max(1, len(pixels) // _GRID)
    values = pixels[::step, ::step].astype(np.float32).ravel()
    mean = float(values.mean())
    variance = float(values @ values) / values.size - mean * mean
    return mean, max(0.0, variance) ** 0.5


def measured(
    image: ImageMeasures,
    confidence: float,
    distance: float | None,
    label: int,
    *,
    accepted: bool,
) -> tuple[float, ...]:
    """A row of what is measured, in the order of `NAMES`; NaN where something isn't known."""
    return (
        confidence,
        np.nan if distance is None else distance,
        label,
        accepted,
        image.brightness,
        image.contrast,
        image.aspect_ratio,
        image.megapixels,
        image.format,
        image.quantization,
    )


@dataclass(frozen=True)
class Layout:
    """The bins of all features, one after another in a flat histogram int64[L]."""

    features: tuple[Feature, ...]

    @classmethod
    def of(cls, labels: Sequence[str]) -> Layout:
        return cls(features_of(labels))

    @cached_property
    def slices(self) -> tuple[slice, ...]:
        """Of each feature in the histogram."""
        ends = np.cumsum([feature.bins for feature in self.features]).tolist()
        return tuple(
            slice(end - feature.bins, end) for end, feature in zip(ends, self.features, strict=True)
        )

    @property
    def size(self) -> int:
        return sum(feature.bins for feature in self.features)

    def bins_of(self, rows: NDArray[np.floating]) -> NDArray[np.intp]:
        """intp[N,F] of rows float[N,F] as `measured` makes them; -1 where NaN."""
        columns = [f.bin_of(rows[:, column]) for column, f in enumerate(self.features)]
        return np.stack(columns, axis=1)

    def count(self, rows: NDArray[np.floating]) -> NDArray[np.int64]:
        """The histogram of rows float[N,F]: int64[L]."""
        bins = self.bins_of(rows)
        starts = np.array([part.start for part in self.slices])
        return np.bincount((bins + starts)[bins >= 0], minlength=self.size).astype(np.int64)
