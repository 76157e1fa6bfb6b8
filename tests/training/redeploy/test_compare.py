from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from models.bundle.bundle import open_bundle
from testing.bundles import write_tiny_bundle
from testing.images import COLOURS, write_image_folder
from training.data.checks import Sample
from training.redeploy.compare import compare, judge, mcnemar, paired_interval
from training.reporter import SilentReporter


def right(*counts: tuple[int, bool, bool]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(how many, champion right, challenger right)"""
    champion = np.concatenate([np.full(n, a) for n, a, _ in counts])
    challenger = np.concatenate([np.full(n, b) for n, _, b in counts])
    return champion, challenger


def test_mcnemar_is_the_binomial_test_of_the_discordant_pairs() -> None:
    champion, challenger = right(
        (80, True, True), (12, False, True), (3, True, False), (5, False, False)
    )
    assert mcnemar(champion, challenger) == pytest.approx(stats.binomtest(3, 15, 0.5).pvalue)
    assert mcnemar(champion, challenger) == pytest.approx(0.03515625)  # 2 * 576 / 32768
    assert mcnemar(champion, champion) == 1.0


def test_the_interval_covers_what_is_known_in_closed_form() -> None:
    champion, challenger = right(
        (800, True, True), (120, False, True), (30, True, False), (50, False, False)
    )
    low, high = paired_interval(champion, challenger)
    mean, deviation = 0.09, np.sqrt((0.15 - 0.09**2) / 1000)
    assert low == pytest.approx(mean - 1.96 * deviation, abs=0.002)
    assert high == pytest.approx(mean + 1.96 * deviation, abs=0.002)
    assert paired_interval(champion, challenger) == (low, high)  # seeded


def test_the_same_answers_have_an_interval_of_no_width() -> None:
    champion, _ = right((10, True, True), (5, False, False))
    assert paired_interval(champion, champion) == (0.0, 0.0)


def test_a_model_is_compared_with_itself(tmp_path: Path) -> None:
    bundle = open_bundle(write_tiny_bundle(tmp_path / "bundle"))
    write_image_folder(tmp_path / "images", dict.fromkeys(COLOURS, 7))
    files = sorted((tmp_path / "images").rglob("*.png"))
    held_out = [Sample(file, file.parent.name, "test", "") for file in files]
    comparison = compare(bundle, bundle, held_out, SilentReporter())
    assert comparison.images == 21
    assert comparison.support == dict.fromkeys(COLOURS, 7)
    assert comparison.challenger.accuracy == 1.0
    assert (comparison.difference, comparison.interval, comparison.p_value) == (
        0.0,
        (0.0, 0.0),
        1.0,
    )
    assert set(comparison.latency_ms) == {"champion", "challenger"}
    assert comparison.size_bytes["champion"] == comparison.size_bytes["challenger"]
    alone = compare(None, bundle, held_out, SilentReporter())
    assert (alone.champion, alone.difference) == (None, None)


def test_a_class_that_a_model_does_not_know_is_wrong_and_counts_against_its_calibration(
    tmp_path: Path,
) -> None:
    bundle = open_bundle(write_tiny_bundle(tmp_path / "bundle"))
    probabilities = np.array([[0.9, 0.05, 0.05], [0.05, 0.9, 0.05]], np.float32)
    judged = judge(probabilities, bundle, ["blue", "purple"])
    assert [judged.answer(image) for image in range(2)] == ["blue", "green"]
    assert judged.is_right.tolist() == [True, False]
    assert judged.accuracy == 0.5
    assert judged.recall == {"blue": 1.0, "purple": 0.0}
    assert judged.calibration_error == pytest.approx(0.4)
