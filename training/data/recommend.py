"""What a look at a data set recommends for its training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

# The largest class over the smallest: who never answers the rarer of two is right in 3 of 4 cases.
IMBALANCE = 3.0
# Images of a class: with fewer, its weight beside large classes is that of a few images seen over
# and over. Of 16 classes with 3 to 247 images, `balanced` made a network answer the rarest alone
# (docs/training.md).
FEW = 10
# Images of a class: with fewer, none is left to train on, to validate or to test.
FEWEST = 3
# Of all images: where fewer are cut by half, the crop decides less than one answer in twenty.
NOTABLY_CROPPED = 0.05
_NAMED = 5
_WAYS_OUT = "add images, merge them into other classes, or leave them out"


def recommendations(cropped: int, counts: Mapping[str, int]) -> Iterator[str]:
    """A sentence for each setting that is worth a change.

    Args:
        cropped: images that lose more than half of their area to the centre crop.
        counts: readable images of each class.
    """
    images = sum(counts.values())
    if cropped > NOTABLY_CROPPED * images:
        yield (
            f"{cropped} of {images} images lose more than half of their area to the centre crop: "
            "train with --resize squash, or --resize pad where proportions matter, which both show "
            "all of an image"
        )
    yield from for_imbalance(counts)
    yield from _for_tiny_classes(counts)


def for_imbalance(counts: Mapping[str, int]) -> Iterator[str]:
    """What helps where some classes have many times the images of others.

    Args:
        counts: images of each class.
    """
    if not counts or max(counts.values()) <= IMBALANCE * min(counts.values()):
        return
    largest, smallest = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
    rare = sorted((count, label) for label, count in counts.items() if count < FEW)
    if rare:
        yield (
            f"{len(rare)} of {len(counts)} classes have fewer than {FEW} images ({_named(rare)}), "
            f"the largest {counts[largest]}: {_WAYS_OUT}"
        )
    else:
        ratio = counts[largest] / counts[smallest]
        yield (
            f"class '{largest}' has {counts[largest]} images and '{smallest}' "
            f"{counts[smallest]}, {ratio:.1f} times fewer: train with --class-weights balanced, "
            "which makes a rare class count as much"
        )


def _for_tiny_classes(counts: Mapping[str, int]) -> Iterator[str]:
    """Where all classes are small; `for_imbalance` names small ones beside large ones."""
    tiny = sorted((count, label) for label, count in counts.items() if count < FEWEST)
    if tiny and max(counts.values()) <= IMBALANCE * min(counts.values()):
        yield (
            f"{len(tiny)} of {len(counts)} classes have fewer than {FEWEST} images "
            f"({_named(tiny)}), too few to train on, validate and test: {_WAYS_OUT}"
        )


def _named(classes: Sequence[tuple[int, str]]) -> str:
    """The smallest classes with their counts."""
    names = ", ".join(f"'{label}' {count}" for count, label in classes[:_NAMED])
    return names + (", ..." if len(classes) > _NAMED else "")
