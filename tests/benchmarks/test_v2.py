"""The bodies that the benchmark sends, to a real service."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import v2
from testing.bundles import tiny_probabilities, tiny_spec
from testing.server import make_home, serve


@pytest.mark.slow
def test_both_kinds_are_answered_alike_and_rightly(tmp_path: Path) -> None:
    size = tiny_spec().preprocessing.image_size
    pixels = np.random.default_rng(0).integers(0, 256, (16, size, size, 3), np.uint8)
    right = tiny_probabilities(pixels)
    with serve(make_home(tmp_path), tmp_path / "log") as server:
        for kind in (v2.JSON, v2.BINARY):
            answers = v2.best_of(server.url, v2.body_of(kind, pixels))
            assert [index for index, _ in answers] == right.argmax(axis=1).tolist()
            best = [probability for _, probability in answers]
            assert best == pytest.approx(right.max(axis=1).tolist(), abs=1e-4)
