"""What a look at a data set recommends for its training."""

from __future__ import annotations

from collections.abc import Iterator

# The largest class over the smallest: who never answers the rarer of two is right in 3 of 4 cases.
IMBALANCE = 3.0
# Of all images: where fewer are cut by half, the crop decides less than one answer in twenty.
NOTABLY_CROPPED = 0.05


def recommendations(images: int, cropped: int, imbalance: float) -> Iterator[str]:
    """A sentence for each setting that is worth a change.

    Args:
        images: all that can be read.
        cropped: those that lose more than half of their area to the centre crop.
        imbalance: images of the largest class over those of the smallest, from 1.
    """
    if cropped > NOTABLY_CROPPED * images:
        yield (
            f"{cropped} of {images} images lose more than half of their area to the centre crop: "
            "train with --resize squash, or --resize pad where proportions matter, which both show "
            "all of an image"
        )
    if imbalance > IMBALANCE:
        yield (
            f"the largest class has {imbalance:.1f} times the images of the smallest: train with "
            "--class-weights balanced, which makes a rare class count as much"
        )
