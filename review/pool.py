"""The images of a review, wherever they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from models.imaging.preprocessing import Preprocessing

Source = Literal["data", "folder", "capture"]


@dataclass(frozen=True)
class Item:
    """An image to review.

    Args:
        image: SHA-256 of its bytes, in hex.
        name: for people.
        given: the label that its source gives it; None: none.
        unit: of images with the same one, one says too much of the other, so they are left out
            together.
        stem: of a captured one, by which the service's location knows it.
        said: what the model that captured it answered.
    """

    image: str
    path: Path
    name: str
    source: Source
    given: str | None
    unit: str
    stem: str | None = None
    said: str | None = None


@dataclass(frozen=True)
class Pool:
    """All images, once each, and what a frozen network makes of them.

    Args:
        features: of each depth, by its name, float[N,p].
        preprocessing: from which the page knows what of an image the model sees.
    """

    items: tuple[Item, ...]
    features: Mapping[str, NDArray[np.floating]]
    preprocessing: Preprocessing
