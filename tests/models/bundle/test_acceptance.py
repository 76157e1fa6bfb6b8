from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from models.bundle.acceptance import Acceptance
from models.errors import BundleError


@pytest.mark.parametrize(
    ("min_confidence", "probability", "distance", "accepted"),
    [
        (0.6, 0.6, 1.0, True),
        (0.6, 0.599, 0.1, False),
        (0.6, 0.9, 1.001, False),
        (0.6, 0.9, float("nan"), False),
        (0.6, 0.9, None, True),
        (0.0, 0.0, 0.0, True),
        (None, 1.0, 0.0, False),
    ],
)
def test_accepts(
    min_confidence: float | None, probability: float, distance: float | None, accepted: bool
) -> None:
    acceptance = Acceptance(target_precision=0.9, min_confidence=min_confidence)
    assert acceptance.accepts(probability, distance) is accepted


def test_written_and_read(tmp_path: Path) -> None:
    acceptance = Acceptance(target_precision=0.9, min_confidence=None)
    acceptance.write(tmp_path / "acceptance.json")
    assert Acceptance.read(tmp_path / "acceptance.json") == acceptance
    (tmp_path / "acceptance.json").write_text('{"target_precision": 2, "min_confidence": 0}')
    with pytest.raises(BundleError, match=r"acceptance\.json is damaged; export the run again"):
        Acceptance.read(tmp_path / "acceptance.json")


def test_what_is_no_precision() -> None:
    with pytest.raises(ValidationError):
        Acceptance(target_precision=0, min_confidence=0.5)
