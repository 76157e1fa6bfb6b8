from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import Ridge as SklearnRidge
from sklearn.linear_model import RidgeClassifierCV, RidgeCV

from models.linear import ridge
from models.linear.ridge import Design, fit

GRID = tuple(np.logspace(-3, 3, 7))


def design(images: int, width: int, classes: int = 3, seed: int = 0) -> Design:
    """Features that tell a little about their class, on an offset, of very different scales."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, classes, images)
    means = rng.normal(size=(classes, width))
    features = rng.normal(size=(images, width)) + means[targets] + 10
    return Design(features * np.logspace(-1, 1, width), targets, classes)


def left_out(fitted: ridge.Ridge) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.concatenate([scores for _, scores in fitted.leave_one_out()])


def refitted(data: Design, penalty: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    """scikit-learn's ridge, fitted once for each image, to all others."""
    one_hot, rows = np.eye(data.classes)[data.targets], np.arange(len(data))
    scores = [
        SklearnRidge(alpha=penalty, solver="cholesky")
        .fit(data.features[rows != row], one_hot[rows != row])
        .predict(data.features[[row]])[0]
        for row in rows
    ]
    return np.array(scores)


def duplicated() -> Design:
    data = design(12, 5)
    return Design(np.repeat(data.features, 2, axis=0), np.repeat(data.targets, 2), 3)


def with_constant_columns() -> Design:
    data = design(20, 6)
    data.features[:, [1, 4]] = 7.0
    return data


def with_a_lonely_class() -> Design:
    data = design(20, 6, classes=2)
    data.targets[11] = 2
    return Design(data.features, data.targets, 3)


CASES = {
    "more images than features": design(30, 6),
    "as many": design(8, 8),
    "fewer": design(15, 40),
    "one feature": design(15, 1),
    "two images": design(2, 3),
    "constant columns": with_constant_columns(),
    "nothing but constants": Design(np.full((9, 4), 3.0), design(9, 4).targets, 3),
    "a class of one image": with_a_lonely_class(),
    "duplicated images": duplicated(),
    "float16": Design(design(30, 6).features.astype(np.float16), design(30, 6).targets, 3),
}
every_case = pytest.mark.parametrize("data", CASES.values(), ids=CASES)


@every_case
@pytest.mark.parametrize("penalty", [1e-3, 1.0, 1e3])
def test_leave_one_out_is_what_fitting_n_times_gives(data: Design, penalty: float) -> None:
    wide = Design(data.features.astype(np.float64), data.targets, data.classes)
    fitted = fit(data, [penalty])
    np.testing.assert_allclose(left_out(fitted), refitted(wide, penalty), rtol=1e-6, atol=1e-7)


@every_case
def test_the_classifier_is_scikit_learns(data: Design) -> None:
    fitted = fit(data, [0.1])
    expected = SklearnRidge(alpha=0.1, solver="cholesky").fit(
        data.features.astype(np.float64), np.eye(data.classes)[data.targets]
    )
    np.testing.assert_allclose(
        fitted.classifier.scores(data.features),
        expected.predict(data.features.astype(np.float64)),
        atol=1e-9,
    )
    assert fitted.classifier.weight.shape == (data.classes, data.width)
    assert fitted.classifier.bias.shape == (data.classes,)


@pytest.mark.parametrize("shape", [(60, 8), (25, 70), (9, 9)])
@pytest.mark.parametrize("seed", range(5))
def test_the_penalty_is_the_one_that_scikit_learn_chooses(
    shape: tuple[int, int], seed: int
) -> None:
    data = design(*shape, seed=seed)
    fitted = fit(data, GRID)
    one_hot = np.eye(data.classes)[data.targets]
    assert fitted.penalty == RidgeCV(alphas=GRID).fit(data.features, one_hot).alpha_
    classifier = RidgeClassifierCV(alphas=GRID).fit(data.features, data.targets)
    assert fitted.penalty == classifier.alpha_
    np.testing.assert_array_equal(
        fitted.classifier.scores(data.features).argmax(axis=1), classifier.predict(data.features)
    )


@pytest.mark.parametrize("shape", [(50, 7), (20, 33)])
def test_in_blocks_it_is_the_same(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    data = design(*shape)
    direct = fit(data)
    expected, weight = left_out(direct), direct.classifier.weight
    monkeypatch.setattr(ridge, "BLOCK", 6)
    streamed = fit(data)
    assert streamed.penalty == pytest.approx(direct.penalty)
    np.testing.assert_allclose(left_out(streamed), expected, atol=1e-9)
    np.testing.assert_allclose(streamed.classifier.weight, weight, atol=1e-9)


def of_units(images: int, width: int, units: int) -> Design:
    data = design(images, width)
    return replace(data, units=np.random.default_rng(1).integers(0, units, images))


@pytest.mark.parametrize("penalty", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("block", [1024, 5])
@pytest.mark.parametrize("data", [of_units(40, 6, 9), of_units(20, 45, 14)], ids=["many", "few"])
def test_units_are_left_out_together(
    data: Design, block: int, penalty: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ridge, "BLOCK", block)
    assert data.units is not None
    one_hot = np.eye(data.classes)[data.targets]
    expected = np.empty_like(one_hot)
    for unit in np.unique(data.units):
        inside = data.units == unit
        others = SklearnRidge(alpha=penalty, solver="cholesky")
        others.fit(data.features[~inside], one_hot[~inside])
        expected[inside] = others.predict(data.features[inside])
    for rows, scores in fit(data, [penalty]).leave_one_out():
        np.testing.assert_allclose(scores, expected[rows], rtol=1e-6, atol=1e-7)
        expected[rows] = np.nan
    assert np.isnan(expected).all()


def test_a_unit_may_be_too_large_for_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ridge, "BLOCK", 5)
    monkeypatch.setattr(ridge, "MAX_UNIT", 3)
    data = replace(design(40, 3), units=np.repeat([4, 2, 9], [1, 30, 9]))
    sizes = [len(rows) for rows, _, _ in data.blocks()]
    assert sum(sizes) == 40
    assert max(sizes) <= 8
    assert sorted(np.concatenate([rows for rows, _, _ in data.blocks()])) == list(range(40))


def test_both_ways_are_the_same_where_they_meet() -> None:
    """One more feature, a constant, and there are fewer images than features."""
    data = design(20, 20)
    wider = Design(np.hstack([data.features, np.ones((20, 1))]), data.targets, 3)
    by_features, by_images = fit(data, [0.5]), fit(wider, [0.5])
    np.testing.assert_allclose(left_out(by_images), left_out(by_features), atol=1e-9)
    weight = by_images.classifier.weight
    np.testing.assert_allclose(weight[:, :-1], by_features.classifier.weight, atol=1e-9)
    np.testing.assert_allclose(weight[:, -1], 0, atol=1e-12)


def test_only_the_rows_that_are_named_take_part() -> None:
    data = design(30, 6)
    rows = np.array([3, 29, 7, 12, 20, 1])
    part = Design(data.features, data.targets, 3, rows=rows)
    alone = Design(data.features[rows], data.targets[rows], 3)
    np.testing.assert_allclose(left_out(fit(part)), left_out(fit(alone)))
    assert np.concatenate([r for r, _ in fit(part).leave_one_out()]).tolist() == rows.tolist()


def test_the_scale_of_the_features_doesnt_matter() -> None:
    data = design(30, 6)
    scaled = Design(data.features * 1e4, data.targets, 3)
    np.testing.assert_allclose(left_out(fit(scaled)), left_out(fit(data)), atol=1e-9)
