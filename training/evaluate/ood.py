"""Which answers of a model are to be trusted, found when its training ends: the model and the
features of its frozen layers are at hand then, and the images still as they were."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.bundle.acceptance import Acceptance
from models.errors import ImageError, UserError
from models.export.distance_graph import FeatureStatistics
from models.imaging.image import load_image
from training.data.batch import Batch, BatchSource
from training.data.folders import unlabelled
from training.data.sources import Split
from training.evaluate.feature_statistics import fit, with_limit
from training.loop.context import TrainContext
from training.loop.inference import network_inputs

# Images of each split that are looked at: enough for a mean of each class and a 99% quantile, and
# some minutes of a CPU at most where nothing is cached.
_IMAGES = 1_000
_IMAGES_OF_A_CLASS = 10
_BATCH = 64  # of the images of `ood_data`


@dataclass(frozen=True)
class Looked:
    """What a model makes of some images: features float32[N,K] (what goes into the
    head: of VGG-19 FC2's, K = 4096), probabilities
    float32[N,C], calibrated, and targets int64[N]."""

    features: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    targets: NDArray[np.int64]

    @property
    def confidence(self) -> NDArray[np.float32]:
        best: NDArray[np.float32] = self.probabilities.max(axis=1)
        return best

    @property
    def is_right(self) -> NDArray[np.bool_]:
        right: NDArray[np.bool_] = self.probabilities.argmax(axis=1) == self.targets
        return right


def find_acceptance(
    model: nn.Module,
    source: BatchSource,
    context: TrainContext,
    temperature: float,
    last_epoch: int,
) -> tuple[FeatureStatistics, dict[str, Any]]:
    """Statistics of the features of training images, and what metrics.json says of acceptance.

    Args:
        last_epoch: training images are looked at as it saw them, so that their features are there.
    """

    def look(split: Split) -> Looked:
        images = _spread(context, split)
        batches = source.batches(split, last_epoch, images=images, shared=False)
        return look_at(model, context, batches, temperature)

    train, val = look("train"), look("val")
    statistics = fit(train.features, train.targets, len(context.data.labels))
    statistics = with_limit(statistics, val.features)
    in_distribution = statistics.distances(val.features) <= 1
    target = context.config.target_precision
    threshold = confidence_threshold(val.confidence, val.is_right, in_distribution, target)
    acceptance = Acceptance(target_precision=target, min_confidence=threshold)
    held_out = val if context.data.held_out == "val" else look(context.data.held_out)
    metrics = {
        **acceptance.model_dump(),
        "val": accepted_share(acceptance, statistics, val),
        "held_out": accepted_share(acceptance, statistics, held_out),
        "unlike": None,
    }
    if context.config.ood_data is not None:
        pixels = _other_images(context, context.config.ood_data)
        if pixels:
            others = look_at(model, context, _batches(pixels), temperature)
            metrics["unlike"] = ood_metrics(acceptance, statistics, held_out, others)
        else:
            context.reporter.warn(
                f"ood_data is {context.config.ood_data}, where no image can be read"
            )
    return statistics, metrics


def confidence_threshold(
    confidence: NDArray[np.floating],
    is_right: NDArray[np.bool_],
    in_distribution: NDArray[np.bool_],
    target_precision: float,
) -> float | None:
    """The smallest confidence from which on so large a share of the answers is right.

    Args:
        confidence: float[N] of the first label. is_right: bool[N]. in_distribution: bool[N]; the
            others are never accepted and don't count.

    Returns:
        one of the confidences, 0.0 where all of them may be accepted, or None where none reaches
        the precision.
    """
    order = np.argsort(-confidence[in_distribution], kind="stable")
    sorted_ = confidence[in_distribution][order]
    right = np.cumsum(is_right[in_distribution][order])
    precision = right / np.arange(1, len(sorted_) + 1)
    # Equal confidences are accepted together, so only the last of them can be the threshold.
    is_last = np.append(sorted_[1:] != sorted_[:-1], True)[: len(sorted_)]
    good = np.flatnonzero(is_last & (precision >= target_precision))
    if not len(good):
        return None
    return 0.0 if good[-1] == len(sorted_) - 1 else float(sorted_[good[-1]])


def accepted_share(
    acceptance: Acceptance, statistics: FeatureStatistics, looked: Looked
) -> dict[str, Any]:
    """Of some images: how many, the share that is accepted, how often that is right (None: there
    is none), and the share that is beyond the limit of distance."""
    distances = statistics.distances(looked.features)
    accepted = acceptance.accepted(looked.confidence, distances)
    return {
        "images": len(accepted),
        "accepted": float(accepted.mean()),
        "precision": float(looked.is_right[accepted].mean()) if accepted.any() else None,
        "beyond_limit": float((distances > 1).mean()),
    }


def ood_metrics(
    acceptance: Acceptance, statistics: FeatureStatistics, held_out: Looked, others: Looked
) -> dict[str, Any]:
    """How well distance tells OOD images from held-out ones: the area under the ROC curve, the
    probability that one of those is further away than one of these."""
    from sklearn.metrics import roc_auc_score  # a second, for those alone who give OOD images

    near, far = (statistics.distances(looked.features) for looked in (held_out, others))
    is_other = np.repeat([0, 1], [len(near), len(far)])
    return {
        "images": len(far),
        "auroc": float(roc_auc_score(is_other, np.concatenate([near, far]))),
        "beyond_limit": float((far > 1).mean()),
        "accepted": float(acceptance.accepted(others.confidence, far).mean()),
    }


def summary(metrics: dict[str, Any]) -> str:
    """What the terminal says."""
    target, held_out = metrics["target_precision"], metrics["held_out"]
    if metrics["min_confidence"] is None:
        return (
            f"no confidence is right {target:.1%} of the time on val, so no answer is accepted; "
            "a lower --target-precision or a better model would help"
        )
    line = (
        f"accepted from a confidence of {metrics['min_confidence']:.3f} (right at least "
        f"{target:.1%} of the time on val): {held_out['accepted']:.1%} of the held-out images"
    )
    if held_out["precision"] is not None:
        line += f", {held_out['precision']:.1%} of them right"
    if (ood := metrics["unlike"]) is not None:
        line += (
            f"; {ood['images']} OOD images detected with an AUROC of {ood['auroc']:.3f}, "
            f"{ood['accepted']:.1%} of them accepted"
        )
    return line


def check_ood_data(folder: Path | None) -> None:
    """Raise UserError before training where the other images aren't there."""
    if folder is not None and not unlabelled(folder)[0]:
        raise UserError(f"ood_data is {folder}, which has no images; name a folder of other images")


def _spread(context: TrainContext, split: Split) -> list[int]:
    """Numbers of images, the same count of each class as far as there are so many."""
    targets = np.array(context.dataset(split).targets)
    each = max(_IMAGES_OF_A_CLASS, _IMAGES // len(context.data.labels))
    chosen: list[int] = []
    for number in range(len(context.data.labels)):
        images = np.flatnonzero(targets == number)
        spread = np.linspace(0, len(images) - 1, min(each, len(images))).astype(int)
        chosen += images[spread].tolist()
    return sorted(chosen)


def look_at(
    model: nn.Module, context: TrainContext, batches: Iterable[Batch], temperature: float
) -> Looked:
    """What the model makes of the images of these batches."""
    normalize, device = context.normalize, context.accelerator.device
    network = context.architecture
    head = network.index(model, network.head)
    features: list[Tensor] = []
    probabilities: list[Tensor] = []
    targets: list[Tensor] = []
    model.eval()
    for batch in batches:
        with torch.inference_mode(), context.accelerator.autocast():
            inputs = network_inputs(batch, normalize, device)
            before_head = network.run(model, inputs, batch.start, head)
            logits = network.run(model, before_head, head).float()
        features.append(before_head.float().cpu())
        probabilities.append((logits / temperature).softmax(dim=1).cpu())
        targets.append(batch.targets)
    return Looked(
        torch.cat(features).numpy(), torch.cat(probabilities).numpy(), torch.cat(targets).numpy()
    )


def _other_images(context: TrainContext, folder: Path) -> list[NDArray[np.uint8]]:
    files, unreachable = unlabelled(folder)
    lost = [f"{file.path}: {file.reason}" for file in unreachable]
    images = []
    for number in np.linspace(0, len(files) - 1, min(_IMAGES, len(files))).astype(int):
        try:
            images.append(load_image(files[number], context.spec.preprocessing))
        except ImageError as error:
            lost.append(str(error))
    if lost:
        context.reporter.warn(f"{len(lost)} OOD images are left out, the first is {lost[0]}")
    return images


def _batches(images: list[NDArray[np.uint8]]) -> Iterator[Batch]:
    """Of images that have no target."""
    for start in range(0, len(images), _BATCH):
        pixels = torch.from_numpy(np.stack(images[start : start + _BATCH]))
        count = len(pixels)
        numbers = torch.arange(start, start + count)
        yield Batch(pixels, torch.full((count,), -1), numbers, torch.ones(count), 0)
