from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from testing.images import write_image_folder
from training.loop.config_file import load_config
from training.loop.find_lr import RangeTest, find_learning_rate, loss_range, plot, suggest
from training.reporter import SilentReporter


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("noise", [0.0, 0.1, 0.5])
def test_the_suggestion_is_where_the_loss_falls_fastest_in_spite_of_noise(
    noise: float, seed: int
) -> None:
    """Noise falls by more from step to step than the loss does, most of all at the beginning."""
    rates = [10 ** (-7 + i / 12) for i in range(84)]
    randomness = random.Random(seed)
    losses = [
        # A step from 1 to 0 between 1e-4 and 1e-2; it rises after 1e-1.
        1 / (1 + math.exp(5 * (math.log10(rate) + 3)))
        + max(0, math.log10(rate) + 1) ** 2
        + randomness.gauss(0, noise / (1 + step))
        for step, rate in enumerate(rates)
    ]
    assert math.log10(suggest(rates, losses)) == pytest.approx(-3, abs=0.5)


def test_a_curve_that_only_rises_has_a_suggestion() -> None:
    assert suggest([1e-3, 1e-2, 1e-1], [1.0, 2.0, 3.0]) == 1e-3


def values(place: Path, head_init: str) -> dict[str, Any]:
    return {
        "data": write_image_folder(place / "data", {"blue": 6, "red": 6}),
        "weights": "none", "strategy": "head", "image_size": 32, "batch_size": 4,
        "head_init": head_init, "label_smoothing": 0.0,
    }  # fmt: skip


@pytest.mark.usefixtures("thin_network")
def test_from_a_fitted_head_there_may_be_nothing_to_find(tmp_path: Path) -> None:
    reporter = SilentReporter()
    config = load_config(None, values(tmp_path, "ridge"))
    test = find_learning_rate(config, reporter, lowest=1e-2, highest=10, steps=20)
    assert any(said.startswith("the head starts with a ridge") for said in reporter.messages)
    if test.suggestion == test.learning_rates[0]:
        (warning,) = reporter.warnings
        assert "the loss rises from 1e-02 on; keep the default rate" in warning


def test_the_range_test_raises_the_rate_to_the_end_and_draws(tmp_path: Path) -> None:
    test = find_learning_rate(
        load_config(None, values(tmp_path, "random")),
        SilentReporter(),
        lowest=1e-6,
        highest=1e-2,
        steps=20,
    )
    assert len(test.learning_rates) == 20
    assert test.learning_rates[0] == pytest.approx(1e-6)
    assert test.learning_rates[-1] == pytest.approx(1e-2)
    assert 1e-6 < test.suggestion < 1e-2
    plot(test, tmp_path / "lr.png")
    with Image.open(tmp_path / "lr.png") as picture:
        assert picture.width > 400
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("end", [4.0, 1e3, 1e30])
def test_the_axis_ends_where_the_loss_diverges(end: float) -> None:
    """The fall from 2.3 to 0.5 takes most of the picture, however far the loss goes then."""
    low, high = loss_range([2.3, 2.3, 2.0, 1.0, 0.5, 0.7, end])
    assert low < 0.5
    assert 2.3 < high < 3


@pytest.mark.parametrize("losses", [[0.5, 1.0, 9.0], [1.0, 1.0, 1.0], [1.0, 0.999, 50.0]])
def test_a_curve_that_hardly_falls_has_an_axis(losses: list[float]) -> None:
    low, high = loss_range(losses)
    assert low < min(losses) <= losses[0] < high < 2 * losses[0]


def test_plot_marks_the_suggestion(tmp_path: Path) -> None:
    plot(RangeTest([1e-3, 1e-2, 1e-1], [1.0, 0.5, 2.0], 1e-2), tmp_path / "a.png")
    plot(RangeTest([1e-3, 1e-2, 1e-1], [1.0, 0.5, 2.0], 1e-1), tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()
