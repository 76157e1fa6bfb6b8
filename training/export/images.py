"""The images of a run that its variants are made and judged with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.bundle.spec import ModelSpec
from training.data.checks import Sample
from training.data.dataset import ImageDataset
from training.data.image_data import ImageData
from training.data.sources import Split
from training.evaluate.evaluation import check_unchanged
from training.loop.config_file import read_config
from training.loop.context import load_data
from training.loop.run import Run
from training.reporter import Reporter

# Images that a variant is judged on, and training images that int8 and fp16 are fitted to: enough
# to tell 99.5% from 98%, and some minutes at most.
_JUDGED_IMAGES = 200
_CALIBRATION_IMAGES = 32
# To find a margin on, where int8 needs one: see `cascade`; float32 takes a minute
# and a half for them.
_MARGIN_IMAGES = 399


@dataclass(frozen=True)
class Images:
    """uint8[N,S,S,3] each: what variants are fitted to (training), and judged on (held out);
    `others`: reads held-out images beside these, which a margin is found on."""

    training: NDArray[np.uint8]
    held_out: NDArray[np.uint8]
    others: Callable[[], NDArray[np.uint8]]


def read_images(run: Run, spec: ModelSpec, reporter: Reporter) -> Images:
    """From the run's own data.

    Raises:
        RunError: the data has changed since.
        DataError: it can't be read.
    """
    data = load_data(read_config(run.config), reporter)
    check_unchanged(run, data.fingerprint())
    return Images(
        training=_spread(data, "train", spec, _CALIBRATION_IMAGES),
        held_out=_spread(data, data.held_out, spec, _JUDGED_IMAGES),
        others=lambda: _others(data, spec),
    )


def _spread(data: ImageData, split: Split, spec: ModelSpec, most: int) -> NDArray[np.uint8]:
    """Up to `most` images, spread over the classes (they lie in their order)."""
    samples = data.split(split)
    return _pixels([samples[place] for place in _places(len(samples), most)], spec)


def _others(data: ImageData, spec: ModelSpec) -> NDArray[np.uint8]:
    """Images that were neither trained on nor are judged on: the rest of the split that judges, and
    where that is the test images, those to validate."""
    judging = data.split(data.held_out)
    judged = set(_places(len(judging), _JUDGED_IMAGES))
    samples = [sample for place, sample in enumerate(judging) if place not in judged]
    if data.held_out == "test":
        samples += data.split("val")
    return _pixels([samples[place] for place in _places(len(samples), _MARGIN_IMAGES)], spec)


def _places(count: int, most: int) -> list[int]:
    """Up to `most` of `count`, spread."""
    chosen = min(most, count)
    return [index * count // chosen for index in range(chosen)]


def _pixels(samples: Sequence[Sample], spec: ModelSpec) -> NDArray[np.uint8]:
    dataset = ImageDataset(samples, spec.labels, spec.preprocessing, None)
    size = spec.preprocessing.image_size
    pixels = np.empty((len(dataset), size, size, 3), np.uint8)
    for place in range(len(dataset)):
        pixels[place] = dataset.pixels(place).numpy()
    return pixels
