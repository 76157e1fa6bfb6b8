"""The names of the strategies, and when `gradual` unfreezes: what configurations know of networks,
without PyTorch."""

from __future__ import annotations

from typing import Literal

Strategy = Literal["fc", "full", "head", "gradual"]
# `auto` trains with one after another of them, and is none of its own.
StrategyChoice = Literal["auto", Strategy]


def default_unfreeze_epochs(epochs: int, blocks: int) -> tuple[int, ...]:
    """When `gradual` unfreezes its blocks if not told: spread evenly over the run."""
    spread = [1 + round(epochs * (block + 1) / (blocks + 1)) for block in range(blocks)]
    return tuple(sorted({epoch for epoch in spread if 1 < epoch <= epochs}))
