"""The images to review, wherever they come from, with their features at every depth of the frozen
network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from models.captured import CapturedImage, captured_images
from models.errors import UserError
from models.imaging.preprocessing import Preprocessing
from review.pool import Item, Pool, captured_item
from training.data.checks import Sample, check_files
from training.data.folders import unlabelled
from training.data.image_data import ImageData
from training.data.listing import ImageFile
from training.data.splits import unit_of
from training.loop.accelerator import make_accelerator
from training.loop.config import NO_AUGMENTATION, TrainConfig
from training.loop.context import TrainContext, load_data, resolved
from training.loop.preflight import check_config
from training.loop.setup import set_up
from training.probe.features import Depth, depth_features, depths
from training.reporter import Reporter

# Labels of a network whose head nobody asks: of images without labels there are none yet.
_PLACEHOLDERS = ("0", "1")


class PoolError(UserError):
    """There is nothing to review."""


@dataclass(frozen=True)
class NetworkPool(Pool):
    """With the network whose features they are.

    Args:
        depths: by their names.
        context: configuration and arithmetic; its data are the first source's.
        data: with the splits that aren't reviewed; None: no labelled data were given.
    """

    depths: Mapping[str, Depth]
    context: TrainContext
    model: nn.Module
    data: ImageData | None


def load_pool(
    config: TrainConfig,
    reporter: Reporter,
    *,
    labelled: bool,
    folders: Sequence[Path] = (),
    capture: str | None = None,
) -> NetworkPool:
    """Find the images, leave out copies and what can't be read, and compute their features.

    Args:
        config: of a run; `data` counts if `labelled`, and of it only the images to train on are
            reviewed. Those that judge a model stay as they are.
        folders: images without labels, however they are sorted there.
        capture: where a service captures images.

    Raises:
        PoolError: there are no images.
        UserError: a source can't be read.
        ProbeError: there is no room for the features.
    """
    check_config(config)
    plain = NO_AUGMENTATION | {"strategy": "head", "unfreeze": ()}
    config = resolved(config.model_copy(update=plain))
    data = load_data(config, reporter) if labelled else None
    rule, seen = config.preprocessing(), _Seen(() if data is None else data.samples)
    parts: list[list[Item]] = []
    if data is not None:
        parts.append(seen.first(_of_data(data)))
    parts += [seen.first(_of_folder(folder, rule, reporter)) for folder in folders]
    if capture is not None:
        images = captured_images(capture, reporter.warn)
        parts.append(seen.first(_of_capture(images, rule, reporter)))
    parts = [part for part in parts if part]
    if not parts:
        raise PoolError("there are no images to review; give --data, --folder or --capture")
    accelerator = make_accelerator(config.device, config.mixed_precision)
    contexts = [
        TrainContext(config, _as_data(part, config), accelerator, reporter) for part in parts
    ]
    model = set_up(contexts[0])[0].model.model
    places = depths(contexts[0].architecture, config.image_size)
    features = [depth_features(context, model, places) for context in contexts]
    return NetworkPool(
        items=tuple(item for part in parts for item in part),
        features={
            place.name: np.concatenate([array[:, place.columns] for array in features])
            if len(features) > 1
            else features[0][:, place.columns]
            for place in places
        },
        preprocessing=rule,
        depths={place.name: place for place in places},
        context=contexts[0],
        model=model,
        data=data,
    )


class _Seen:
    """Takes each image once, from the first source that has it; what judges is taken by none."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._images = {sample.sha256 for sample in samples if sample.split != "train"}

    def first(self, items: Iterable[Item]) -> list[Item]:
        taken = []
        for item in items:
            if item.image not in self._images:
                self._images.add(item.image)
                taken.append(item)
        return taken


def _of_data(data: ImageData) -> list[Item]:
    return [
        Item(s.sha256, s.path, data.name(s.path), "data", s.label, unit_of(s))
        for s in data.split("train")
    ]


def _of_folder(folder: Path, rule: Preprocessing, reporter: Reporter) -> list[Item]:
    if not folder.is_dir():
        raise PoolError(f"{folder} is not a folder; --folder names one with images")
    paths, skipped = unlabelled(folder)
    for file in skipped:
        reporter.warn(f"{file.path} is left out: {file.reason}")
    samples, _ = check_files([ImageFile(path, "") for path in paths], rule, reporter)
    return [
        Item(s.sha256, s.path, str(s.path.relative_to(folder)), "folder", None, s.sha256)
        for s in samples
    ]


def _of_capture(
    images: Sequence[CapturedImage], rule: Preprocessing, reporter: Reporter
) -> list[Item]:
    by_path = {image.path: image for image in images}
    samples, _ = check_files([ImageFile(path, "") for path in by_path], rule, reporter)
    return [captured_item(by_path[s.path], s.sha256) for s in samples]


def _as_data(items: Sequence[Item], config: TrainConfig) -> ImageData:
    """What features are computed of; labels don't matter to them."""
    samples = tuple(Sample(i.path, _PLACEHOLDERS[0], "train", i.image) for i in items)
    return ImageData(config.data, _PLACEHOLDERS, samples, ())
