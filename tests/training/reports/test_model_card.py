from __future__ import annotations

import pytest
import torch

from models.imaging.preprocessing import Preprocessing
from testing.bundles import tiny_spec
from training.evaluate.metrics import classification_metrics
from training.loop.config_file import load_config
from training.loop.run import record_provenance
from training.reports.model_card import model_card


def card_of(logits: torch.Tensor, preprocessing: Preprocessing | None = None) -> str:
    """Of nine held-out images, three of each class."""
    spec = tiny_spec()
    if preprocessing is not None:
        spec = spec.model_copy(update={"preprocessing": preprocessing})
    counts = {
        split: dict.fromkeys(spec.labels, n) for split, n in [("train", 7), ("val", 2), ("test", 3)]
    }
    held_out = classification_metrics(logits, torch.arange(3).repeat(3), spec.labels)
    metrics = {
        "best_epoch": 4,
        "held_out": {"split": "test", **held_out},
        "calibration": {"temperature": 1.25, "expected_calibration_error_before": 0.321},
        "onnx_parity": {"max_probability_difference": 2e-7, "tolerance": 1e-4},
        "heat_map_parity": {"max_difference": 3e-6, "tolerance": 1e-3},
    }
    config = load_config(None, {"data": "d", "output": "o"})
    return model_card(spec, {"counts": counts}, metrics, record_provenance(config, "f" * 64))


def test_the_card_tells_use_limits_data_numbers_and_how_to_reproduce() -> None:
    card = card_of(torch.eye(3).repeat(3, 1) * 4)
    for heading in ("Intended use", "Limits", "Data and metrics", "How to reproduce"):
        assert f"## {heading}" in card
    for words in (
        "blue, green, red", "| blue | 7 | 2 | 3 | 1.000 | 1.000 | 1.000 |", "| accuracy | 100.0% |",
        "f" * 64, "temperature 1.25) | 0.321", "vgg19 reproduce", "most\n3.0e-06 (limit\n1e-03)",
    ):  # fmt: skip
        assert words in card


@pytest.mark.parametrize(
    ("rule", "shape", "unseen"),
    [
        (Preprocessing(), "resized to 256 px, then the centre cropped.", "outside the centre"),
        (Preprocessing(resize="squash"), "resized to the square", "Proportions are lost"),
        (
            Preprocessing(resize="pad"),
            "filled with (124, 116, 104) on",
            "the more it is scaled down",
        ),
    ],
)
def test_the_card_tells_how_an_image_becomes_square(
    rule: Preprocessing, shape: str, unseen: str
) -> None:
    card = " ".join(card_of(torch.eye(3).repeat(3, 1), rule).split())
    assert shape in card
    assert unseen in card


def test_the_card_says_what_speaks_against_the_model() -> None:
    assert "never answers" not in card_of(torch.eye(3).repeat(3, 1))
    always_blue = card_of(torch.tensor([1.0, 0, 0]).repeat(9, 1))
    assert "- **It is no better than always answering 'blue': 33.3% of" in always_blue
    assert "- **It never answers 'green', 'red', though" in always_blue
