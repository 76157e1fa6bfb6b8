from __future__ import annotations

import os

import pytest

from reliability.resources import Sample, growth, sample, too_much


def samples(*memory_mb: float, every_s: float = 10) -> list[Sample]:
    return [Sample(number * every_s, value, 50, 10) for number, value in enumerate(memory_mb)]


def test_a_leak_is_found_by_its_slope() -> None:
    """2 MB with each sample of 10 s, after a warm-up that isn't counted."""
    found = growth(samples(*[500.0] * 2, *(100 + 2 * number for number in range(2, 10))))
    assert found["memory_mb"]["per_hour"] == pytest.approx(2 * 360)
    assert found["memory_mb"]["over_the_run"] == pytest.approx(14)
    assert found["memory_mb"]["first"] == 104
    assert found["descriptors"]["per_hour"] == 0


def test_what_grows_by_more_than_its_limit_is_told() -> None:
    level = growth(samples(*[100.0, 104.0] * 10))
    assert too_much(level) == {}
    rising = growth(samples(*(100 + 2.0 * number for number in range(20))))
    assert set(too_much(rising)) == {"memory_mb"}


def test_a_few_samples_prove_nothing() -> None:
    with pytest.raises(ValueError, match="9 samples say nothing"):
        growth(samples(*[100.0] * 9))


def test_a_sample_of_this_process() -> None:
    with open(os.devnull):  # noqa: PTH123  # a descriptor more
        more = sample(os.getpid())
    less = sample(os.getpid())
    assert more.descriptors == less.descriptors + 1
    assert less.threads >= 1
    assert less.memory_mb > 20
