"""What is worth saying of a run before it begins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from training.data.recommend import IMBALANCE
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
    largest, smallest = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
    is_even_handed = config.class_weights != "none" or config.balanced_sampling
    if counts[largest] > IMBALANCE * counts[smallest] and not is_even_handed:
        yield (
            f"class '{largest}' has {counts[largest]} training images and '{smallest}' "
            f"{counts[smallest]}, {counts[largest] / counts[smallest]:.1f} times fewer; "
            "class_weights: balanced in the config file makes a rare class count as much"
        )
