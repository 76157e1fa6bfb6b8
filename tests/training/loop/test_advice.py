from __future__ import annotations

from typing import Any

import pytest

from training.loop.advice import advice
from training.loop.config import TrainConfig
from training.loop.layer_table import LayerRow


def said(counts: dict[str, int], frozen: int = 0, **changes: Any) -> list[str]:
    config = TrainConfig.model_validate({"data": "d", "output": "o"} | changes)
    layers = [LayerRow(f"features.{i}", 10, None if i < frozen else 1, 1e-4) for i in range(19)]
    return list(advice(config, counts, layers))


@pytest.mark.parametrize(
    ("strategy", "frozen"), [("head", 18), ("fc", 16), ("gradual", 3)]
)  # fmt: skip
def test_random_layers_that_stay_as_they_are(strategy: str, frozen: int) -> None:
    (line,) = said({"a": 5, "b": 5}, frozen, weights="none", strategy=strategy)
    assert line.startswith(
        f"weights is none and strategy {strategy} leaves {frozen} of 19 layers as they are"
    )
    assert "--strategy full" in line
    assert said({"a": 5, "b": 5}, frozen, weights="imagenet", strategy=strategy) == []
    assert said({"a": 5, "b": 5}, 0, weights="none", strategy="full") == []


@pytest.mark.parametrize(
    ("counts", "ratio"),
    [({"a": 31, "b": 10}, "3.1"), ({"a": 1, "b": 3, "c": 12}, "12.0"), ({"a": 4, "b": 1}, "4.0")],
)
def test_imbalance_over_three(counts: dict[str, int], ratio: str) -> None:
    (line,) = said(counts)
    assert f"{ratio} times fewer; class_weights: balanced" in line
    assert said(counts, class_weights="balanced") == []
    assert said(counts, balanced_sampling=True) == []


def test_imbalance_of_three_is_not_told() -> None:
    assert said({"a": 30, "b": 10, "c": 15}) == []
