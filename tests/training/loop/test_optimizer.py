from __future__ import annotations

import math
from typing import Literal

import pytest

from training.loop.optimizer import schedule_factor


def test_schedule_by_hand() -> None:
    def factors(kind: Literal["cosine", "constant"], warmup: int, total: int = 6) -> list[float]:
        return [
            schedule_factor(step, total_steps=total, warmup_steps=warmup, kind=kind)
            for step in range(total + 1)
        ]

    half = math.sqrt(0.5)
    assert factors("cosine", 0, 4) == pytest.approx([1, (1 + half) / 2, 0.5, (1 - half) / 2, 0])
    assert factors("cosine", 2)[:3] == pytest.approx([1 / 3, 2 / 3, 1])
    assert factors("cosine", 2)[-1] == pytest.approx(0)
    assert factors("constant", 2) == pytest.approx([1 / 3, 2 / 3, 1, 1, 1, 1, 1])
