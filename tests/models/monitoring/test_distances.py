from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon

from models.monitoring.distances import (
    compare,
    group,
    jensen_shannon,
    psi,
    psi_noise,
    psi_parts,
)
from models.monitoring.features import Feature

ORDINAL = Feature("x", "x", edges=tuple(float(edge) for edge in range(1, 20)))
RNG = np.random.default_rng(0)


def test_psi_by_hand() -> None:
    counts, reference = np.array([30, 70]), np.array([50, 50])
    expected = (30.5 / 101 - 0.5) * math.log(30.5 / 101 / 0.5)
    expected += (70.5 / 101 - 0.5) * math.log(70.5 / 101 / 0.5)
    assert psi(counts, reference) == pytest.approx(expected)
    assert psi(reference, reference) == 0
    assert psi_parts(counts, reference).min() > 0
    assert math.isfinite(psi(np.array([100, 0]), np.array([0, 100])))


def test_the_noise_of_psi_is_what_two_samples_of_the_same_have() -> None:
    shares = np.full(10, 0.1)
    found = [psi(RNG.multinomial(1000, shares), RNG.multinomial(500, shares)) for _ in range(400)]
    assert np.mean(found) == pytest.approx(psi_noise(1000, 500, 10), rel=0.1)


def test_jensen_shannon_is_scipys() -> None:
    counts, reference = RNG.integers(0, 50, 30), RNG.integers(0, 50, 30)
    assert jensen_shannon(counts, reference) == pytest.approx(
        jensenshannon(counts, reference, base=2)
    )
    assert jensen_shannon(counts, counts) == pytest.approx(0, abs=1e-7)
    assert jensen_shannon(np.array([1, 0]), np.array([0, 1])) == 1


def test_groups_have_a_tenth_of_the_reference_each() -> None:
    reference = RNG.multinomial(1000, RNG.dirichlet(np.full(20, 5)))
    groups = group(ORDINAL, reference)
    assert 7 <= len(groups.names) <= 12
    assert np.all(np.diff(groups.numbers) >= 0)
    assert sorted(groups.sums(reference))[3] >= 50  # but for the ends
    assert groups.sums(reference).sum() == 1000


def test_what_groups_are_called() -> None:
    reference = np.zeros(20, np.int64)
    reference[[3, 9]] = 50
    groups = group(ORDINAL, reference)
    assert groups.names == ("below 3", "3 to 4", "4 to 9", "9 to 10", "from 10")
    assert groups.sums(reference).tolist() == [0, 50, 0, 50, 0]
    only_first = group(ORDINAL, np.eye(1, 20, dtype=np.int64)[0] * 9)
    assert only_first.names == ("below 1", "from 1")
    assert group(ORDINAL, np.zeros(20, np.int64)).names == ("all",)
    near_1 = Feature("c", "c", edges=(0.5, 0.99987, 0.999987))
    names = group(near_1, np.array([10, 0, 10, 10])).names
    assert names == ("below 0.5", "0.5 to 0.99987", "0.99987 to 0.99999", "from 0.99999")
    rounded = Feature("d", "d", edges=(10**-0.55, 10**-0.4, 1 - 1e-12, 10**0.05))  # of a grid
    names = group(rounded, np.array([10, 10, 10, 10, 10])).names
    assert names == ("below 0.282", "0.282 to 0.398", "0.398 to 1", "1 to 1.12", "from 1.12")
    colours = Feature("colour", "colour", categories=("red", "green"))
    assert group(colours, np.array([1, 0])).names == ("red", "green")


def test_what_is_beside_all_of_the_reference_counts() -> None:
    """Of cameras that all have one size, another size is a change."""
    reference, other = np.zeros(20, np.int64), np.zeros(20, np.int64)
    reference[10] = other[11] = 100
    found = compare(other, reference, group(ORDINAL, reference))
    assert found is not None
    assert found.psi > 5
    assert found.jensen_shannon == 1


def test_nothing_is_compared_with_nothing() -> None:
    groups = group(ORDINAL, np.ones(20, np.int64))
    assert compare(np.zeros(20, np.int64), np.ones(20, np.int64), groups) is None
    assert compare(np.ones(20, np.int64), np.zeros(20, np.int64), groups) is None
    found = compare(np.full(20, 3), np.ones(20, np.int64), groups)
    assert found is not None
    assert (found.images, found.jensen_shannon) == (60, 0)
