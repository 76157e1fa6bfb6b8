"""The images of a review, wherever they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from models.captured import CapturedImage
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
        predictions: of a captured one: labels with their probabilities, 0..1, as the model that
            captured it answered, the best first.
    """

    image: str
    path: Path
    name: str
    source: Source
    given: str | None
    unit: str
    stem: str | None = None
    predictions: tuple[tuple[str, float], ...] = ()

    @property
    def said(self) -> str | None:
        """The first of its predictions; None: there are none."""
        return self.predictions[0][0] if self.predictions else None

    @property
    def doubt(self) -> float:
        """0..1: 1 less what the best prediction is ahead of the second; 1 without any."""
        shares = [probability for _, probability in self.predictions[:2]]
        return 1.0 if not shares else 1 - shares[0] + sum(shares[1:])


@dataclass(frozen=True)
class Pool:
    """All images, once each, and what a frozen network makes of them.

    Args:
        features: of each depth, by its name, float[N,p]; none: nothing is fitted, and images are
            in the order of their `doubt`.
        preprocessing: from which the page knows what of an image the model sees.
    """

    items: tuple[Item, ...]
    features: Mapping[str, NDArray[np.floating]]
    preprocessing: Preprocessing


def captured_item(image: CapturedImage, digest: str) -> Item:
    """An image that the service captured. `digest`: SHA-256 of its bytes, in hex."""
    predictions = tuple(
        (str(one["label"]), float(one["probability"])) for one in image.record["predictions"]
    )
    return Item(
        digest, image.path, image.stem, "capture", image.label, digest, image.stem, predictions
    )
