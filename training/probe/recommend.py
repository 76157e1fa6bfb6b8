"""From the scores of all depths to what to train."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from models.network.architecture import Architecture
from models.network.unfreezing import Strategy
from training.probe.judge import DepthScore

# Depths whose errors on the same images differ by luck as often as this are alike.
#
# By squared errors and not by what is right: of 100 images of 5 digits, 98 were right at each of
# the seven depths, and the squared errors put block 3, 4, 2 and 1 (0.073 to 0.102) before block 5,
# FC1 and FC2 (0.113 to 0.125), as held-out images of other writers did (88 to 92% right, and 78 to
# 83%).
_SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class Recommendation:
    """What to train, and why, in a sentence.

    Args:
        strategy: None where that can't be told.
        unfreeze: patterns of layers, as of `TrainConfig`.
        head_init: as of `TrainConfig`, where its default isn't what to begin with.
        surely: whether the images tell the depth from the one above which `fc` trains.
    """

    reason: str
    strategy: Strategy | None
    unfreeze: tuple[str, ...] = ()
    head_init: Literal["ridge"] | None = None
    surely: bool = False

    @property
    def options(self) -> str | None:
        """Those of `vgg19 train`."""
        if self.strategy is None:
            return None
        unfreeze = (f"--unfreeze {shlex.quote(pattern)}" for pattern in self.unfreeze)
        head = [f"--head-init {self.head_init}"] if self.head_init else []
        return " ".join([f"--strategy {self.strategy}", *unfreeze, *head])


def best_of(scores: Sequence[DepthScore]) -> DepthScore:
    """The depth with the smallest error; of several, the one nearest to the head."""
    return min(reversed(scores), key=lambda score: score.predictions.error)


def recommend(
    scores: Sequence[DepthScore], majority: float, weights: str, architecture: Architecture
) -> Recommendation:
    """Train what lies above the depth with the smallest error.

    Not above the deepest one that is like it, which would train less: for the 90 digits, where
    block 3 and 4 were alike, `fc` with what lies above block 4 gave 65.9%, above block 3 82.6%.

    Args:
        scores: of all depths, from the images on.
        majority: the share of the largest class.
        weights: `imagenet`, `none` or a path.
    """
    best = best_of(scores)
    low, high = best.predictions.interval
    reached = f"{best.predictions.accuracy:.1%} ({low:.1%} to {high:.1%})"
    if low <= majority:
        return Recommendation(
            f"can't tell what to train: {best.depth.name} is the best with {reached}, and always "
            f"answering the largest class is right for {majority:.1%}; look at the labels and the "
            "image size, or add images",
            None,
        )
    if weights == "none":
        return Recommendation(
            f"train all layers: with weights none, what stays frozen stays random; a linear "
            f"classifier on {best.depth.name}'s random features is right for {reached}, so a "
            "training that ends below that was too short, or has too few images; from a head in "
            "closed form, it can't end below what these features are worth",
            "full",
            head_init="ridge",
        )
    what, strategy, unfreeze = _what_to_train(scores.index(best), architecture)
    alike = [score.depth.name for score in scores if score is not best and _are_alike(score, best)]
    doubt = f"; these images can't tell it from {', '.join(alike)}" if alike else ""
    below_fc = scores[len(architecture.blocks) - 1]
    return Recommendation(
        f"{best.depth.name} has the smallest error, so {what}; a linear classifier on it is right "
        f"for {reached} of images like these, so a training that ends below that was too short"
        f"{doubt}",
        strategy,
        unfreeze,
        surely=not _are_alike(below_fc, best),
    )


def _are_alike(score: DepthScore, best: DepthScore) -> bool:
    """By a paired t-test; equal errors have no p-value (NaN)."""
    from scipy import stats  # half a second, which `train` imports this file without

    test = stats.ttest_rel(score.predictions.errors, best.predictions.errors)
    return not test.pvalue < _SIGNIFICANCE


def _what_to_train(place: int, architecture: Architecture) -> tuple[str, Strategy, tuple[str, ...]]:
    """All that lies above a depth: in words, as a strategy, and as patterns of layers to unfreeze.

    From the first epoch on: for 90 images of 5 digits, `fc` with the last two blocks gave 82.6%,
    `full` 82.2%, and `gradual`, which unfroze these two in epochs 4 and 7 of 10, 78.2%.

    Args:
        place: of the depth, counted from the images.
    """
    above = len(architecture.blocks) - 1 - place
    if above < 0:
        extra = architecture.fully_connected[-above:-1]
        return f"train {' and '.join((*extra, 'the head'))} on it", "head", extra
    if above == 0:
        return f"unfreeze from {architecture.fully_connected[0]} on", "fc", ()
    first = architecture.blocks[above - 1][0]
    return f"unfreeze from {first} on", "fc", last_blocks(architecture, above)


def last_blocks(architecture: Architecture, count: int) -> tuple[str, ...]:
    """Patterns that match the layers of the last blocks and no others."""
    wanted = [layer for block in architecture.blocks[:count] for layer in block]
    return tuple(_patterns(wanted, architecture.layer_names))


def _patterns(wanted: Sequence[str], names: Sequence[str]) -> list[str]:
    """Shell patterns that match these layers and no others: `features.3?` for three of VGG-19's."""
    found = []
    for name in (name for name in names if name in wanted):
        pattern = f"{name[:-1]}?"
        matched = [other for other in names if fnmatchcase(other, pattern)]
        found.append(pattern if len(matched) > 1 and set(matched) <= set(wanted) else name)
    return list(dict.fromkeys(found))
