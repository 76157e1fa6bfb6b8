from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from torch.nn.functional import cross_entropy

from models.linear.head_fit import HeadFit, fit_head
from models.linear.ridge import Design, fit
from training.evaluate.calibration import fit_temperature

CLASSES = 4


def noisy(images: int, width: int, noise: float, seed: int = 0) -> Design:
    """Classes around points of their own, the same ones for every seed."""
    points = np.random.default_rng(100).normal(size=(CLASSES, width))
    rng = np.random.default_rng(seed)
    targets = np.arange(images) % CLASSES
    features = points[targets] + noise * rng.normal(size=(images, width))
    return Design(features.astype(np.float32), targets, CLASSES)


def logits(fitted: HeadFit, features: NDArray[np.floating]) -> torch.Tensor:
    return torch.from_numpy(features @ fitted.weight.T + fitted.bias)


@pytest.mark.parametrize(("images", "width"), [(200, 20), (40, 100)])
def test_it_says_what_the_ridge_says_and_counts_what_that_leaves_out(
    images: int, width: int
) -> None:
    design = noisy(images, width, noise=3)
    fitted, ridge = fit_head(design), fit(design)
    scores = ridge.classifier.scores(design.features)
    assert (logits(fitted, design.features).argmax(dim=1).numpy() == scores.argmax(axis=1)).all()
    right = sum(
        int((left_out.argmax(axis=1) == design.targets[rows]).sum())
        for rows, left_out in ridge.leave_one_out()
    )
    assert (fitted.correct, fitted.images) == (right, images)
    assert fitted.weight.dtype == fitted.bias.dtype == np.float32


def test_no_other_scale_has_a_smaller_loss() -> None:
    design = noisy(400, 20, noise=3)
    (rows, scores), *rest = fit(design).leave_one_out()
    assert not rest
    targets = torch.from_numpy(design.targets[rows])

    def loss(logarithm: float) -> float:
        return float(cross_entropy(torch.from_numpy(scores * np.exp(logarithm)), targets))

    least = minimize_scalar(loss, bounds=(0, np.log(1000)), method="bounded").fun
    assert fit_head(design).loss == pytest.approx(least, abs=1e-3)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_its_loss_is_that_of_pytorch_at_the_same_smoothing(smoothing: float) -> None:
    design = noisy(200, 20, noise=3)
    fitted, ridge = fit_head(design, smoothing), fit(design)
    assert np.array_equal(fitted.weight, fit_head(design).weight)
    scale = fitted.weight[0, 0] / ridge.classifier.weight[0, 0]
    ((rows, scores),) = ridge.leave_one_out()
    targets = torch.from_numpy(design.targets[rows])
    expected = cross_entropy(torch.from_numpy(scores * scale), targets, label_smoothing=smoothing)
    assert fitted.loss == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("noise", [1.5, 3])
def test_probabilities_mean_what_they_say_on_other_images(noise: float) -> None:
    """As fitted on images that the head has never seen, the temperature is 1."""
    fitted, others = fit_head(noisy(400, 20, noise)), noisy(4000, 20, noise, seed=1)
    temperature = fit_temperature(
        logits(fitted, others.features).float(), torch.from_numpy(others.targets)
    )
    assert temperature == pytest.approx(1, abs=0.15)


def test_without_a_mistake_it_is_not_certain_of_everything() -> None:
    design = noisy(40, 20, noise=0.01)
    fitted = fit_head(design)
    assert fitted.correct == 40
    confidence = logits(fitted, design.features).softmax(dim=1).amax(dim=1)
    assert 0.9 < float(confidence.min()) < float(confidence.max()) < 0.9999


def test_features_that_say_nothing_give_the_classes_shares() -> None:
    design = Design(np.zeros((30, 5), np.float32), np.arange(30) % 3, 3)
    probabilities = logits(fit_head(design), design.features).softmax(dim=1)
    assert probabilities.numpy() == pytest.approx(1 / 3, abs=1e-3)
