"""How many labels a review needs (`training.review`), and whether it finds wrong ones again.

    python -m benchmarks.training.review
    python -m benchmarks.training.review --stamps /usr/share/tuxpaint/stamps

scikit-learn's digits at 32 px, and the stamps of Debian's package tuxpaint-stamps-default at 64 px,
both through VGG-19 with random weights (scaled as `--weights none` does). A third of the images
judges; a reviewer who is always right labels the others, ten between two fits, from no label at
all: in random order, and in the order of `review.order`. Told is after how many labels the
accuracy, as a mean over the seeds, is 0.98 of what the labels of all of them give (of one seed, it
wobbles across that line by chance). Then a reviewer who errs in 2% of the labels labels half of
them in that order, and is asked again about what the fit contradicts.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

from benchmarks.report import OUTPUT, save
from review.fit import Fit, best_depth, can_fit, fit_labels
from review.order import first_penalty, most_valuable, uncertainty
from review.space import Space, make_space
from training.loop.config_file import load_config
from training.reporter import SilentReporter
from training.review.pool import load_pool

BATCH = 10
GOAL = 0.98
ERRORS = 0.02
# Labels at most.
MOST = 600

Labels = dict[int, str]
# From what is labelled and the last fit to the rows that are labelled next.
Order = Callable[[Labels, Fit | None], list[int]]


@dataclass(frozen=True)
class Trial:
    """One split of a data set. Rows of `spaces` are those of the images to label.

    Args:
        truth: labels of the images to label. judged: of those that judge.
        features: of the latter, by depth, in the same directions.
    """

    truth: list[str]
    judged: list[str]
    units: NDArray[np.int64]
    spaces: dict[str, Space]
    features: dict[str, NDArray[np.float32]]

    def accuracy(self, fit: Fit) -> float:
        scores = self.features[fit.depth] @ fit.weight.T + fit.bias
        said = np.array(fit.labels)[scores.argmax(axis=1)]
        return float((said == np.array(self.judged)).mean())


class Fitter:
    """Fits as a session does: the depth is chosen anew with twice the labels."""

    def __init__(self, trial: Trial) -> None:
        self._trial = trial
        self._chosen_with = 0

    def __call__(self, labels: Labels) -> Fit | None:
        trial = self._trial
        if not can_fit(labels):
            return None
        if len(labels) >= 2 * self._chosen_with:
            self._depth = best_depth(labels, trial.units, trial.spaces)
            self._chosen_with = len(labels)
        return fit_labels(labels, trial.units, trial.spaces[self._depth], self._depth)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stamps", type=Path, help="folder of Tux Paint's stamps")
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    sets = {"digits": (write_digits(OUTPUT / "review-digits"), 32)}
    if options.stamps is not None:
        sets["stamps"] = (write_stamps(options.stamps, OUTPUT / "review-stamps"), 64)
    found = {}
    for name, (folder, image_size) in sets.items():
        features, truth = read(folder, image_size)
        found[name] = summary([measure(features, truth, seed) for seed in range(options.seeds)])
        shown = (f"{key} {value:.3g}" for key, value in found[name].items() if key != "curves")
        print(f"{name}: {', '.join(shown)}", flush=True)
    save("review", found)


def summary(trials: list[dict[str, Any]]) -> dict[str, Any]:
    """Over the seeds: where the mean curves reach the goal, and means of the rest."""
    curves = {
        order: np.mean([one["curves"][order] for one in trials], axis=0).tolist()
        for order in ("random", "ours")
    }
    numbers = {
        key: statistics.mean(one[key] for one in trials) for key in trials[0] if key != "curves"
    }
    goal = GOAL * numbers["accuracy"]
    labels = {order: reached(curve, goal) for order, curve in curves.items()}
    return {
        **numbers,
        **labels,
        "ours/random": labels["ours"] / labels["random"],
        "curves": curves,
    }


def reached(curve: list[float], goal: float) -> int:
    """Labels after which it is there; all of the curve's where it never is."""
    above = (place for place, accuracy in enumerate(curve, start=1) if accuracy >= goal)
    return BATCH * next(above, len(curve))


def measure(
    features: dict[str, NDArray[np.floating]], truth: list[str], seed: int
) -> dict[str, Any]:
    """The accuracy after each batch in each order, and what became of a reviewer's errors."""
    trial = split(features, truth, seed)
    rng = np.random.default_rng(seed)
    whole = Fitter(trial)(dict(enumerate(trial.truth)))
    assert whole is not None
    shuffled = rng.permutation(len(trial.truth)).tolist()
    orders = {
        "random": lambda labels, _: shuffled[len(labels) :][:BATCH],
        "ours": worth(trial),
    }
    return {
        "images": len(trial.truth),
        "accuracy": trial.accuracy(whole),
        "curves": {name: curve(trial, order) for name, order in orders.items()},
        **errors_found(trial, rng),
    }


def worth(trial: Trial) -> Order:
    """The order of a session."""

    def order(labels: Labels, fit: Fit | None) -> list[int]:
        depths = list(trial.spaces)
        space = trial.spaces[fit.depth if fit else depths[len(depths) // 2]].coordinates
        rest = np.setdiff1d(np.arange(len(space)), list(labels))
        return most_valuable(
            space,
            np.array(sorted(labels), np.int64),
            rest,
            uncertainty(fit.probabilities) if fit else np.ones(len(space)),
            penalty=fit.penalty if fit else first_penalty(space),
            count=BATCH,
        )

    return order


def curve(trial: Trial, order: Order) -> list[float]:
    """The accuracy after each batch, up to all images, or `MOST`."""
    labels: Labels = {}
    fit, fitter, accuracies = None, Fitter(trial), []
    while len(labels) < min(MOST, len(trial.truth)):
        labels |= {row: trial.truth[row] for row in order(labels, fit)}
        fit = fitter(labels)
        accuracies.append(trial.accuracy(fit) if fit else 0.0)
    return accuracies


def errors_found(trial: Trial, rng: np.random.Generator) -> dict[str, float]:
    """Of a reviewer's errors the share that is asked about again, and of what is asked again the
    share that was an error; each is asked once, and answered rightly."""
    classes = sorted(set(trial.truth))
    labels: Labels = {}
    wrong: set[int] = set()
    asked: set[int] = set()
    fit, fitter, order = None, Fitter(trial), worth(trial)
    while len(labels) < len(trial.truth) // 2:
        for row in order(labels, fit):
            labels[row] = trial.truth[row]
            if rng.random() < ERRORS:
                labels[row] = str(rng.choice([one for one in classes if one != trial.truth[row]]))
                wrong.add(row)
        fit = fitter(labels)
        for row in {row for row, *_ in fit.suspects()} - asked if fit else ():
            asked.add(row)
            labels[row] = trial.truth[row]
    found = len(wrong & asked)
    return {
        "errors": len(wrong),
        "found again": found / len(wrong) if wrong else 1.0,
        "of those asked": found / len(asked) if asked else 1.0,
        "asked": len(asked),
    }


def split(features: dict[str, NDArray[np.floating]], truth: list[str], seed: int) -> Trial:
    order = np.random.default_rng([seed, 1]).permutation(len(truth))
    judged, pool = np.sort(order[: len(truth) // 3]), np.sort(order[len(truth) // 3 :])
    spaces = {depth: make_space(values[pool]) for depth, values in features.items()}
    return Trial(
        truth=[truth[row] for row in pool],
        judged=[truth[row] for row in judged],
        units=np.arange(len(pool)),
        spaces=spaces,
        features={depth: space.of(features[depth][judged]) for depth, space in spaces.items()},
    )


def read(folder: Path, image_size: int) -> tuple[dict[str, NDArray[np.floating]], list[str]]:
    """Features of all images at each depth, and their labels, which the review isn't told."""
    values: dict[str, Any] = {
        "data": folder, "weights": "none", "image_size": image_size, "resize": "squash",
        "mixed_precision": "no",
    }  # fmt: skip
    pool = load_pool(load_config(None, values), SilentReporter(), labelled=False, folders=[folder])
    return dict(pool.features), [item.path.parent.name for item in pool.items]


def write_digits(root: Path) -> Path:
    digits = load_digits()
    for number, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        path = root / str(label) / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.round(image * (255 / 16)).astype(np.uint8)).save(path)
    return root


def write_stamps(stamps: Path, root: Path) -> Path:
    """The PNG files, by the topmost of their folders: `animals`, `food`, ..."""
    for file in sorted(stamps.rglob("*.png")):
        label, *rest = file.relative_to(stamps).parts
        path = root / label / "-".join(rest)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.read_bytes())
    return root


if __name__ == "__main__":
    main()
