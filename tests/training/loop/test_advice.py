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


def test_uneven_classes_of_what_is_trained_on() -> None:
    (line,) = said({"a": 31, "b": 10})
    assert "3.1 times fewer: train with --class-weights balanced" in line
    assert said({"a": 31, "b": 10}, class_weights="balanced") == []
    assert said({"a": 31, "b": 10}, balanced_sampling=True) == []
    assert said({"a": 30, "b": 10, "c": 15}) == []
