"""How soon drift is found, and how often an alarm is false, on a small model's answers to digits.

    python -m benchmarks.monitoring.drift [SEEDS]

A VGG-19 of a sixteenth of the width is trained on the digits 0 to 8 and exported; it then answers
digits that it has not seen, plain and changed, once (build/benchmarks/drift keeps the answers).
Production is drawn from these with replacement, a thousand images a day, and so is each reference:
so both have the same distribution, exactly, until something changes.
"""

from __future__ import annotations

import argparse
import io
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from sklearn.datasets import load_digits

from benchmarks.report import OUTPUT, save
from models.bundle.bundle import Bundle, open_bundle
from models.imaging.image import decode_image
from models.monitoring.features import ImageMeasures, Layout, measured
from models.monitoring.reference import Reference, read_reference
from models.monitoring.watch import Rules, Watch
from serving.engine.session import checked_session
from serving.loading import session_options
from serving.settings import load_settings
from testing.small_vgg import thin_vgg19

FOLDER = OUTPUT / "drift"
SIDE = 96  # of the files
TRAINED = 800  # images, of digits 0 to 8; training takes its validation images from these
UNKNOWN = 9
FREQUENT = "3"

IMAGES_A_DAY, DAYS, CALL = 1000, 100, 250
REFERENCE = 300
USUAL_BEFORE = 10 * IMAGES_A_DAY
MOST, STEP = 5_000, 10
SEEDS = 20
FALSE_ALARM_SEEDS = 200

Rows = NDArray[np.float64]


def _seeds(words: list[str]) -> int:
    """What a command line asks for: runs without any change, in which each alarm is false."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.monitoring.drift", description="How soon drift is found."
    )
    parser.add_argument("seeds", nargs="?", type=int, default=FALSE_ALARM_SEEDS,
                        help="runs without drift, of which false alarms are counted")  # fmt: skip
    seeds: int = parser.parse_args(words).seeds
    if seeds < 1:
        parser.error(f"SEEDS is {seeds}, it must be 1 or more")
    return seeds


def main() -> None:
    seeds = _seeds(sys.argv[1:])
    bundle = trained()
    rows = {name: answers(bundle, name, change) for name, change in CHANGES.items()}
    labels = bundle.spec.labels
    found: dict[str, object] = {"images": {name: len(part) for name, part in rows.items()}}
    found["accuracy"] = bundle.metrics()["held_out"]["accuracy"]
    found["real_reference"] = against_the_bundle(bundle, rows["usual"])
    print(found)
    found["until_alarm"] = {
        name: until_alarm(name, rows["usual"], draw, labels) for name, draw in drifts(rows).items()
    }
    found["false_alarms"] = false_alarms(rows["usual"], labels, seeds)
    print(found["false_alarms"])
    save("drift", found)


def trained() -> Bundle:
    """The bundle of the model, made once."""
    path = FOLDER / "run" / "bundle"
    if not path.exists():
        from training.export.bundle import export_run
        from training.loop.config_file import load_config
        from training.loop.recipe import fine_tune
        from training.loop.run import Run
        from training.reporter import SilentReporter

        write_digits(FOLDER / "digits")
        config = load_config(
            None,
            {
                "data": FOLDER / "digits", "output": FOLDER / "run", "weights": "none",
                "strategy": "full", "image_size": 32, "resize_size": 32, "augment": "none",
                "epochs": 60, "batch_size": 16, "learning_rate": 1e-3, "dropout": 0.0,
                "val_fraction": 0.25, "test_fraction": 0.0,
            },
        )  # fmt: skip
        with patch("models.network.vgg19.vgg19", thin_vgg19):
            fine_tune(config, SilentReporter())
            export_run(Run(FOLDER / "run"))
    return open_bundle(path)


@cache
def digits() -> tuple[Any, Any]:
    """Pixels float64[N,8,8], 0..16, and labels int64[N]."""
    found = load_digits()
    return found.images, found.target


def digit(number: int) -> Image.Image:
    pixels = np.round(digits()[0][number] * (255 / 16)).astype(np.uint8)
    return Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC).convert("RGB")


def numbers() -> tuple[list[int], list[int], list[int]]:
    """Of the digits to train on, of those that production is made of, and of the unknown ones."""
    targets = digits()[1]
    order = np.random.default_rng(0).permutation(len(targets))
    known = [int(number) for number in order if targets[number] != UNKNOWN]
    return known[:TRAINED], known[TRAINED:], np.flatnonzero(targets == UNKNOWN).tolist()


def write_digits(folder: Path) -> None:
    for number in numbers()[0]:
        path = folder / str(digits()[1][number]) / f"{number:04}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(digit(number)))


def jpeg(image: Image.Image, quality: int = 90) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def darker(share: float, image: Image.Image) -> Image.Image:
    return image.point(lambda value: round(value * share))


def noisy(sigma: float, image: Image.Image) -> Image.Image:
    rng = np.random.default_rng(int(np.asarray(image).sum()))
    pixels = np.asarray(image) + rng.normal(0, sigma, (SIDE, SIDE, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def blurred(radius: float, image: Image.Image) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(radius))


Change = Callable[[Image.Image], bytes]


def _changed(change: Callable[[Image.Image], Image.Image]) -> Change:
    return lambda image: jpeg(change(image))


CHANGES: dict[str, Change] = {
    "usual": jpeg,
    "unknown": jpeg,
    "10% darker": _changed(partial(darker, 0.9)),
    "30% darker": _changed(partial(darker, 0.7)),
    "blur of 3 px": _changed(partial(blurred, 3)),
    "noise of 10 levels": _changed(partial(noisy, 10)),
    "JPEG quality 30": partial(jpeg, quality=30),
    "JPEG quality 80": partial(jpeg, quality=80),
    "JPEG quality 30, then 90": lambda image: jpeg(Image.open(io.BytesIO(jpeg(image, 30)))),
}


def answers(bundle: Bundle, name: str, change: Change) -> Rows:
    """What is measured of all images with a change: float64[N,F], kept."""
    path = FOLDER / f"{name}.npy"
    if not path.exists():
        session = checked_session(bundle, session_options(load_settings(), worker_index=1))
        acceptance = bundle.acceptance()
        assert acceptance is not None
        rows = []
        for number in numbers()[2 if name == "unknown" else 1]:
            image = decode_image(change(digit(number)), bundle.spec.preprocessing)
            (output,) = session.judge([image.pixels])
            label = int(output.probabilities.argmax())
            confidence = float(output.probabilities[label])
            accepted = acceptance.accepts(confidence, output.distance)
            rows.append(
                measured(
                    ImageMeasures.of(image), confidence, output.distance, label, accepted=accepted
                )
            )
        np.save(path, np.array(rows))
    found: Rows = np.load(path)
    return found


def drifts(rows: dict[str, Rows]) -> Mapping[str, Callable[[int, np.random.Generator], Rows]]:
    """What production becomes: draws so many images."""

    def of(part: Rows, weights: Rows | None, count: int, rng: np.random.Generator) -> Rows:
        return part[rng.choice(len(part), count, p=weights)]

    def with_unknown(share: float, count: int, rng: np.random.Generator) -> Rows:
        is_new = rng.random(count) < share
        usual, new = (of(rows[name], None, count, rng) for name in ("usual", "unknown"))
        return np.where(is_new[:, None], new, usual)

    found = {name: partial(of, part, None) for name, part in rows.items()
             if name not in ("usual", "unknown")}  # fmt: skip
    frequent = np.array([digits()[1][n] == int(FREQUENT) for n in numbers()[1]])
    weights = np.where(frequent, 10.0, 1.0)
    found["a class ten times as frequent"] = partial(of, rows["usual"], weights / weights.sum())
    return found | {"10% of an unknown class": partial(with_unknown, 0.1)}


def watch_of(rows: Rows, labels: tuple[str, ...], rng: np.random.Generator) -> Watch:
    reference = Reference.of_rows(rows[rng.integers(0, len(rows), REFERENCE)], labels)
    return Watch(reference, labels, IMAGES_A_DAY, Rules(), rng)


def false_alarms(rows: Rows, labels: tuple[str, ...], seeds: int) -> dict[str, float]:
    """Of so many services that run for 100 days on what they know: how many raise an alarm."""
    layout, alarms = Layout.of(labels), 0
    seconds = time.process_time()
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        watch = watch_of(rows, labels, rng)
        for call in range(DAYS * IMAGES_A_DAY // CALL):
            drawn = rows[rng.integers(0, len(rows), CALL)]
            watch.add(layout.count(drawn), CALL, 86400 * call * CALL / IMAGES_A_DAY)
        alarms += bool(watch.alarms)
        if watch.alarms:
            print(seed, watch.alarms)
    images = seeds * DAYS * IMAGES_A_DAY
    return {
        "services": seeds,
        "alarms": alarms,
        "processor_us_an_image": 1e6 * (time.process_time() - seconds) / images,
    }


def until_alarm(
    name: str, rows: Rows, draw: Callable[[int, np.random.Generator], Rows], labels: tuple[str, ...]
) -> dict[str, object]:
    """Changed images until an alarm, after ten usual days, and what raises it."""
    layout = Layout.of(labels)
    images, features = [], []
    for seed in range(SEEDS):
        rng = np.random.default_rng(1000 + seed)
        watch = watch_of(rows, labels, rng)
        for _ in range(USUAL_BEFORE // CALL):
            watch.add(layout.count(rows[rng.integers(0, len(rows), CALL)]), CALL, 0.0)
        count = 0
        while not watch.alarms and count < MOST:
            watch.add(layout.count(draw(STEP, rng)), STEP, 0.0)
            count += STEP
        images.append(count if watch.alarms else None)
        features += watch.alarms
    known = [count for count in images if count is not None]
    found: dict[str, object] = {
        "median": statistics.median(known) if known else None,
        "most": max(known) if known else None,
        "missed": SEEDS - len(known),
        "features": {name: features.count(name) for name in dict.fromkeys(features)},
    }
    print(name, found)
    return found


def against_the_bundle(bundle: Bundle, rows: Rows) -> dict[str, object]:
    """The reference that training wrote, and all digits that the model hasn't seen, once."""
    reference = read_reference(bundle)
    assert reference is not None
    labels = bundle.spec.labels
    watch = Watch(reference, labels, IMAGES_A_DAY, Rules(), np.random.default_rng(0))
    watch.add(Layout.of(labels).count(rows), len(rows), 0.0)
    most = max(one.test.most_evidence for one in watch.features)
    return {"reference": reference.images, "images": len(rows), "alarms": watch.alarms,
            "evidence/needed": most / watch.needed_evidence}  # fmt: skip


if __name__ == "__main__":
    main()
