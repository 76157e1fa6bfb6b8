"""How many labels a review needs (`training.review`), and whether it finds wrong ones again.

    python -m benchmarks.training.review
    python -m benchmarks.training.review --stamps /usr/share/tuxpaint/stamps --rules all

scikit-learn's digits at 32 px, and the stamps of Debian's package tuxpaint-stamps-default at 64 px,
both through VGG-19 with random weights (scaled as `--weights none` does). A third of the images
judges; a reviewer who is always right labels the others, ten between two fits, from no label at
all: in random order, in the order of `review.order`, and in others (`review_rules`). Told is after
how many labels the accuracy is 0.98 of what the labels of all of them give: that of the mean curve
over the seeds, and the median over the seeds, each of which wobbles across that line by chance.
Then a reviewer who errs in 2% of the labels labels half of them in the order of `review.order`, and
is asked again about what the fit contradicts.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

from benchmarks.report import OUTPUT, save
from benchmarks.training.review_rules import RULES, ours
from benchmarks.training.review_trial import BATCH, Fitter, Labels, Trial, curve, split
from training.loop.config_file import load_config
from training.reporter import SilentReporter
from training.review.pool import load_pool

GOAL = 0.98
ERRORS = 0.02
# What the others are compared with.
_RANDOM = "random"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stamps", type=Path, help="folder of Tux Paint's stamps")
    parser.add_argument("--only", choices=("digits", "stamps"), help="of the two")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--rules", default="random,ours", help=f"all, or of {', '.join(RULES)}")
    options = parser.parse_args()
    rules = [*RULES] if options.rules == "all" else options.rules.split(",")
    sets: dict[str, tuple[Path, int]] = {}
    if options.only != "stamps":
        sets["digits"] = (write_digits(OUTPUT / "review-digits"), 32)
    if options.stamps is not None and options.only != "digits":
        sets["stamps"] = (write_stamps(options.stamps, OUTPUT / "review-stamps"), 64)
    found = {}
    for name, (folder, image_size) in sets.items():
        features, truth = read(folder, image_size)
        trials = (split(features, truth, seed) for seed in range(options.seeds))
        found[name] = summary([measure(trial, rules) for trial in trials])
        show(name, found[name])
    save("review", found)


def measure(trial: Trial, rules: Sequence[str]) -> dict[str, Any]:
    """The accuracy after each batch by each rule, and what became of a reviewer's errors."""
    whole = Fitter(trial)(dict(enumerate(trial.truth)))
    assert whole is not None
    return {
        "images": len(trial.truth),
        "accuracy": trial.accuracy(whole),
        **errors_found(trial),
        "curves": {
            name: curve(trial, RULES[name].make(trial), RULES[name].most)
            for name in dict.fromkeys([_RANDOM, *rules])
        },
    }


def summary(trials: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the seeds, and of each rule where the goal is reached."""
    numbers = {
        key: statistics.mean(one[key] for one in trials) for key in trials[0] if key != "curves"
    }
    goals = [GOAL * one["accuracy"] for one in trials]
    curves = {name: [one["curves"][name] for one in trials] for name in trials[0]["curves"]}
    reach = {name: _reach(those, goals) for name, those in curves.items()}
    for one in reach.values():
        one["ratio"] = one["labels"] / reach[_RANDOM]["labels"]
        pairs = zip(one["own"], reach[_RANDOM]["own"], strict=True)
        one["median ratio"] = statistics.median(mine / its for mine, its in pairs)
    return {**numbers, "rules": reach}


def _reach(curves: list[list[float]], goals: list[float]) -> dict[str, Any]:
    """`labels`: after which the mean curve is there. `own`: each of them."""
    mean = np.mean(curves, axis=0).tolist()
    own = [reached(one, goal) for one, goal in zip(curves, goals, strict=True)]
    return {
        "labels": reached(mean, statistics.mean(goals)),
        "median": statistics.median(own),
        "own": own,
        "mean curve": mean,
    }


def reached(curve: Sequence[float], goal: float) -> int:
    """Labels after which it is there; all of the curve's where it never is."""
    above = (place for place, accuracy in enumerate(curve, start=1) if accuracy >= goal)
    return BATCH * next(above, len(curve))


def show(name: str, found: dict[str, Any]) -> None:
    """As lines."""
    numbers = (f"{key} {value:.3g}" for key, value in found.items() if key != "rules")
    print(f"{name}: {', '.join(numbers)}")
    for rule, one in found["rules"].items():
        at = (f"{100 * one['mean curve'][place - 1]:.1f}" for place in (5, 10, 20))
        print(
            f"  {rule}: labels {one['labels']} ({one['ratio']:.2f}), median {one['median']:g} "
            f"({min(one['own'])} to {max(one['own'])}; {one['median ratio']:.2f}), "
            f"% right with 50, 100, 200: {', '.join(at)}",
            flush=True,
        )


def errors_found(trial: Trial) -> dict[str, float]:
    """Of a reviewer's errors the share that is asked about again, and of what is asked again the
    share that was an error; each is asked once, and answered rightly."""
    rng, classes = np.random.default_rng([trial.seed, 2]), sorted(set(trial.truth))
    labels: Labels = {}
    wrong: set[int] = set()
    asked: set[int] = set()
    fit, fitter, order = None, Fitter(trial), ours(trial)
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
