from __future__ import annotations

import pytest
import torch
from torch import Tensor

from training.evaluate.calibration import expected_calibration_error, fit_temperature, reliability


def overconfident(count: int, factor: float, seed: int) -> tuple[Tensor, Tensor]:
    """Logits `factor` times too large: labels are drawn from softmax(logits / factor)."""
    generator = torch.Generator().manual_seed(seed)
    honest = torch.randn(count, 5, generator=generator) * 2
    targets = torch.multinomial(honest.softmax(dim=1), 1, generator=generator).squeeze(1)
    return honest * factor, targets


def ece(logits: Tensor, targets: Tensor) -> float:
    return expected_calibration_error(reliability(logits.softmax(dim=1), targets))


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_the_temperature_is_found(factor: float) -> None:
    assert fit_temperature(*overconfident(4000, factor, 0)) == pytest.approx(factor, rel=0.1)


def test_it_lowers_the_error_on_held_out_data_and_changes_no_answer() -> None:
    temperature = fit_temperature(*overconfident(1000, 3.0, 0))
    logits, targets = overconfident(4000, 3.0, 1)
    scaled = logits / temperature
    assert torch.equal(scaled.argmax(dim=1), logits.argmax(dim=1))
    assert ece(logits, targets) > 0.2
    assert ece(scaled, targets) < 0.03


@pytest.mark.parametrize("images", [3, 300])
def test_without_a_mistake_they_are_as_sure_as_so_many_images_allow(images: int) -> None:
    logits = torch.eye(3).repeat(images // 3, 1) * 2
    temperature = fit_temperature(logits, torch.arange(3).repeat(images // 3))
    sure = (logits / temperature).softmax(dim=1).max(dim=1).values
    expected = 1 - 2 / 3 / (images + 2)  # the smoothing's share of the two other classes
    assert sure.numpy() == pytest.approx(expected, abs=1e-4)


def test_one_mistake_more_changes_the_temperature_by_little() -> None:
    """Nothing jumps where the last mistake goes."""
    torch.manual_seed(0)
    targets = torch.arange(200) % 4
    logits = torch.nn.functional.one_hot(targets, 4) * 3 + torch.rand(200, 4)
    wrong = targets.clone()
    wrong[0] = (wrong[0] + 1) % 4
    assert fit_temperature(logits, targets) == pytest.approx(
        fit_temperature(logits, wrong), rel=0.35
    )


def test_a_fit_that_runs_away_is_not_taken() -> None:
    wrong = torch.tensor([[5.0, 0.0], [0.0, 5.0]])
    assert fit_temperature(wrong, torch.tensor([1, 0])) == 1.0


def test_reliability_and_error_by_hand() -> None:
    probabilities = torch.tensor([[0.9, 0.1], [0.92, 0.08], [0.6, 0.4], [0.5, 0.5]])
    targets = torch.tensor([0, 1, 0, 0])
    rows = reliability(probabilities, targets, bins=10)
    assert [row["images"] for row in rows] == [1, 1, 1, 1]
    assert [row["accuracy"] for row in rows] == [1, 1, 1, 0]
    expected = (0.5 + 0.4 + 0.1 + 0.92) / 4
    assert expected_calibration_error(rows) == pytest.approx(expected, abs=1e-6)


def test_certainty_falls_into_the_last_bin() -> None:
    (row,) = reliability(torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
    assert row == {"images": 1, "confidence": 1.0, "accuracy": 1.0}
