from __future__ import annotations

import pytest

from benchmarks.training.review import reached, summary


def test_the_goal_is_reached_by_the_mean_curve() -> None:
    assert reached([0.2, 0.5, 0.4, 0.9], 0.5) == 20
    assert reached([0.2, 0.5], 0.6) == 20
    trials = [
        {"accuracy": 1.0, "errors": 2, "curves": {"random": [0.1, 0.97, 1.0], "ours": [0.98] * 3}},
        {"accuracy": 1.0, "errors": 4, "curves": {"random": [0.1, 0.97, 1.0], "ours": [0.99] * 3}},
    ]
    found = summary(trials)
    assert (found["random"], found["ours"], found["errors"]) == (30, 10, 3)
    assert found["ours/random"] == pytest.approx(1 / 3)
