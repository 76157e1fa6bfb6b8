"""What is worth saying of a run before it begins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from training.data.recommend import for_imbalance
from training.loop.config import TrainConfig
from training.loop.layer_table import LayerRow


def advice(
    config: TrainConfig, counts: Mapping[str, int], layers: Sequence[LayerRow]
) -> Iterator[str]:
    """A sentence for each thing that is likely to be a mistake.

    Args:
        counts: training images of each class.
    """
    frozen = [row for row in layers if row.first_epoch is None]
    if config.weights == "none" and frozen:
        yield (
            f"weights is none and strategy {config.strategy} leaves {len(frozen)} of "
            f"{len(layers)} layers as they are: they stay random, and the rest learns from what "
            "random layers see; use --strategy full, or --weights imagenet"
        )
    if config.class_weights == "none" and not config.balanced_sampling:
        yield from for_imbalance(counts)
