from __future__ import annotations

import numpy as np
import pytest

from benchmarks.training.review import measure, reached, summary
from benchmarks.training.review_rules import RULES
from benchmarks.training.review_trial import Trial, curve, split


@pytest.fixture(scope="module")
def trial() -> Trial:
    """Three classes in five directions, which overlap a little."""
    rng = np.random.default_rng(0)
    truth = [str(number % 3) for number in range(180)]
    centres = 2 * rng.normal(size=(3, 5))
    features = centres[np.arange(180) % 3] + rng.normal(size=(180, 5))
    return split({"only": features}, truth, seed=0)


def test_the_goal_is_reached_by_the_mean_curve() -> None:
    assert reached([0.2, 0.5, 0.4, 0.9], 0.5) == 20
    assert reached([0.2, 0.5], 0.6) == 20
    curves = {"random": [0.1, 0.97, 1.0], "ours": [0.98] * 3}
    trials = [
        {"accuracy": 1.0, "errors": 2, "curves": curves},
        {"accuracy": 1.0, "errors": 4, "curves": curves | {"ours": [0.99] * 3}},
    ]
    found = summary(trials)
    random, ours = (found["rules"][name] for name in ("random", "ours"))
    assert (random["labels"], ours["labels"], found["errors"]) == (30, 10, 3)
    assert (random["own"], ours["own"]) == ([30, 30], [10, 10])
    assert ours["ratio"] == ours["median ratio"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("name", RULES)
def test_every_rule_asks_for_each_image_once(trial: Trial, name: str) -> None:
    order, labels = RULES[name].make(trial), dict[int, str]()
    rows: list[int] = []

    def watched(known: dict[int, str], fit: object) -> list[int]:
        new = order(known, fit)  # type: ignore[arg-type]
        rows.extend(new)
        labels.update((row, trial.truth[row]) for row in new)
        return new

    accuracies = curve(trial, watched, 600)
    assert sorted(rows) == list(range(len(trial.truth)))
    assert len(accuracies) == len(trial.truth) / 10
    assert accuracies[-1] > 0.8


def test_who_knows_all_labels_needs_the_fewest(trial: Trial) -> None:
    rules = ("random", "ours", "oracle")
    curves = [np.mean(curve(trial, RULES[name].make(trial), 60)) for name in rules]
    assert curves[2] == max(curves)


def test_errors_are_found_again(trial: Trial) -> None:
    found = measure(trial, [])
    assert found["images"] == 120
    assert set(found["curves"]) == {"random"}
    assert 0 <= found["found again"] <= 1
