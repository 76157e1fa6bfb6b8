"""What there is to train, from the head alone to everything, and in which order it is tried."""

from __future__ import annotations

from dataclasses import dataclass

from models.network.architecture import Architecture
from models.network.unfreezing import Strategy
from training.probe.recommend import Recommendation, last_blocks


@dataclass(frozen=True)
class Rung:
    """A strategy with the layers that it unfreezes besides. `name`: what people are told."""

    name: str
    strategy: Strategy
    unfreeze: tuple[str, ...] = ()

    def is_recommended(self, recommendation: Recommendation) -> bool:
        wanted = (recommendation.strategy, recommendation.unfreeze)
        return (self.strategy, self.unfreeze) == wanted


_HEAD = Rung("head", "head")
_FC = Rung("fc", "fc")
_FULL = Rung("full", "full")


def ladder(architecture: Architecture) -> tuple[Rung, ...]:
    """Each trains one layer or one block of convolutions more than the one before it."""
    below = architecture.fully_connected[1:-1]
    heads = [
        Rung(f"head, from {below[place]} on", "head", below[place:])
        for place in reversed(range(len(below)))
    ]
    blocks = [
        Rung(f"fc, from {block[0]} on", "fc", last_blocks(architecture, count))
        for count, block in enumerate(architecture.blocks[:-1], start=1)
    ]
    return (_HEAD, *heads, _FC, *blocks, _FULL)


def plan(architecture: Architecture, recommended: Recommendation, weights: str) -> tuple[Rung, ...]:
    """The rungs in the order in which they are tried, until one no longer pays.

    `fc` first, then what the probe recommends, so that the record tells what unfreezing has
    brought, then one block more at a time. Where the probe recommends less than `fc`, that first.

    Args:
        weights: `imagenet`, `none` or a path. With `none` it is all layers, since frozen ones would
            stay random.
    """
    if weights == "none":
        return (_FULL,)
    rungs = ladder(architecture)
    start = fc = rungs.index(_FC)
    for place, rung in enumerate(rungs):
        if rung.is_recommended(recommended):
            start = place
    return (_FC, *rungs[start:]) if start > fc else rungs[start:]
