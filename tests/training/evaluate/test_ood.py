from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.bundle.acceptance import Acceptance
from models.errors import UserError
from training.evaluate.feature_statistics import fit, with_limit
from training.evaluate.ood import (
    Looked,
    accepted_share,
    check_ood_data,
    confidence_threshold,
    ood_metrics,
    summary,
)


def threshold(
    confidence: list[float], is_right: str, target: float, in_distribution: str = ""
) -> float | None:
    marks = [np.array([letter == "x" for letter in word]) for word in (is_right, in_distribution)]
    near = marks[1] if in_distribution else np.ones(len(confidence), np.bool_)
    return confidence_threshold(np.array(confidence), marks[0], near, target)


@pytest.mark.parametrize(
    ("confidence", "is_right", "target", "expected"),
    [
        ([0.9, 0.8, 0.7, 0.6], "xxxx", 0.95, 0.0),  # all are right, so all may be accepted
        ([0.9, 0.8, 0.7, 0.6], "xxx.", 0.95, 0.7),
        ([0.6, 0.9, 0.7, 0.8], ".xxx", 0.95, 0.7),  # in any order
        ([0.9, 0.8, 0.7, 0.6], "x.xx", 0.75, 0.0),  # 3 of 4, though 1 of 2 before
        ([0.9, 0.8, 0.7, 0.6], "x.x.", 0.66, 0.7),  # 2 of 3
        ([0.9, 0.8, 0.7, 0.6], ".xxx", 0.8, None),
        ([0.9, 0.9, 0.9, 0.6], "xx.x", 0.9, None),  # equals are accepted together
        ([0.9, 0.9, 0.9, 0.6], "xx..", 0.66, 0.9),
        ([], "", 0.9, None),
    ],
)
def test_threshold_by_hand(
    confidence: list[float], is_right: str, target: float, expected: float | None
) -> None:
    assert threshold(confidence, is_right, target) == expected


def test_what_is_out_of_distribution_does_not_count() -> None:
    assert threshold([0.9, 0.8, 0.7], ".xx", 0.95) is None
    assert threshold([0.9, 0.8, 0.7], ".xx", 0.95, ".xx") == 0.0


def test_the_precision_is_kept_and_no_lower_threshold_keeps_it() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0, 1, 2000).round(2)
    is_right = rng.uniform(0, 1, 2000) < confidence
    everything = np.ones(2000, np.bool_)
    for target in (0.7, 0.9):
        found = confidence_threshold(confidence, is_right, everything, target)
        assert found is not None
        assert is_right[confidence >= found].mean() >= target
        for lower in np.unique(confidence[confidence < found]):
            assert is_right[confidence >= lower].mean() < target


def looked(first_values: list[float], confidence: float = 0.9, right: bool = True) -> Looked:
    """Images whose features differ in the first value only."""
    features = np.zeros((len(first_values), 4), np.float32)
    features[:, 0] = first_values
    probabilities = np.full((len(first_values), 2), 1 - confidence, np.float32)
    probabilities[:, 0] = confidence
    return Looked(features, probabilities, np.full(len(first_values), 0 if right else 1))


def test_shares_and_auroc_by_hand() -> None:
    train = looked([-1.0, 1.0, -1.0, 1.0])
    statistics = with_limit(fit(train.features, np.array([0, 0, 1, 1]), 2), looked([2.0]).features)
    acceptance = Acceptance(target_precision=0.9, min_confidence=0.7)
    near = looked([0.0, 1.0, 1.9, 2.1])
    assert accepted_share(acceptance, statistics, near) == {
        "images": 4, "accepted": 0.75, "precision": 1.0, "beyond_limit": 0.25,
    }  # fmt: skip
    unsure = accepted_share(acceptance, statistics, looked([0.0], confidence=0.6))
    assert (unsure["accepted"], unsure["precision"]) == (0.0, None)
    # 3.0 is beyond all four; 2.1 is beyond three and equal to one: (4 + 3.5) of 8 pairs.
    apart = ood_metrics(acceptance, statistics, near, looked([3.0, 2.1]))
    assert apart["auroc"] == pytest.approx(7.5 / 8)
    assert (apart["images"], apart["beyond_limit"], apart["accepted"]) == (2, 1.0, 0.0)


def test_what_the_terminal_says() -> None:
    shares = {"images": 4, "accepted": 0.75, "precision": 1.0, "beyond_limit": 0.25}
    metrics = {
        "target_precision": 0.9, "min_confidence": 0.5, "val": shares, "held_out": shares,
        "unlike": {"images": 2, "auroc": 0.9375, "beyond_limit": 1.0, "accepted": 0.25},
    }  # fmt: skip
    assert summary(metrics) == (
        "accepted from a confidence of 0.500 (right at least 90.0% of the time on val): 75.0% of "
        "the held-out images, 100.0% of them right; 2 OOD images detected with an AUROC of "
        "0.938, 25.0% of them accepted"
    )
    assert "no answer is accepted" in summary(metrics | {"min_confidence": None})


def test_no_other_images(tmp_path: Path) -> None:
    check_ood_data(None)
    (tmp_path / "Thumbs.db").write_bytes(b"no image")
    (tmp_path / "sound.ogg").write_bytes(b"OggS")
    with pytest.raises(UserError, match="which has no images; name a folder of other images"):
        check_ood_data(tmp_path)
    with pytest.raises(UserError, match="which has no images"):
        check_ood_data(tmp_path / "missing")
    (tmp_path / "deep" / "train").mkdir(parents=True)
    (tmp_path / "deep" / "train" / "a.jpg").write_bytes(b"")
    check_ood_data(tmp_path)
