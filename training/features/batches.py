"""Frozen features, computed once: batches of the inputs of the first layer that trains.

Below that layer nothing changes in training, so its input is computed once for each image (and
augmented view of it), cached in a file (`training.features.cache`), and read instead of the image
from then on, in this run and in later ones.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.errors import UserError
from models.network.strategies import FineTuner
from training.data.batch import Batch
from training.data.dataset import read_ahead
from training.data.sampling import EpochBatches
from training.data.sources import SPLITS, Split
from training.features.cache import FeatureFile, FeatureKey, FeatureType, default_root, evict
from training.features.filling import fill, for_inference, weights_digest, what_values_depend_on
from training.loop.context import TrainContext
from training.loop.image_batches import ImageBatches
from training.loop.inference import evaluation_batch_size
from training.loop.precision import frozen_precision

# From features there are mostly fully connected layers to go, and a batch of any size has to read
# their 478 MB of weights.
_EVALUATION_BATCH_SIZE = 256


class FeatureError(UserError):
    """The features don't fit the type that they are to be cached in."""


class CachedFeatures:
    """A `BatchSource`: of features where they can be cached, else of images.

    Whatever model is run on the batches, its frozen part must be that of the model in training.

    Args:
        tuner: the model in training; its `boundary` says where the frozen part ends.
    """

    def __init__(self, context: TrainContext, tuner: FineTuner) -> None:
        self._context = context
        self._tuner = tuner
        self._images = ImageBatches(context)
        self._precision = frozen_precision(context.config.mixed_precision, context.accelerator)
        self._root = context.config.cache_dir or default_root()
        self._arrays: dict[str, NDArray[np.generic]] = {}
        self._weights: dict[int, str] = {}
        self._shapes: dict[int, tuple[int, ...]] = {}
        self._planned: dict[str, int] = {}
        self._without: set[int] = set()

    def plan(self, trainable: Sequence[set[str]], *, first_epoch: int = 1) -> None:
        """Decide for each stage of the run whether its features are cached, and tell what that
        takes.

        Args:
            trainable: for each epoch from the first on, the layers that train.
        """
        stages: dict[int, list[int]] = {}
        for epoch, names in enumerate(trainable, first_epoch):
            boundary = self._context.architecture.first_trainable(self._tuner.model, names)
            stages.setdefault(boundary, []).append(epoch)
        for boundary, epochs in stages.items():
            if boundary > 0 and self._context.config.views > 0:
                self._plan_stage(boundary, {self._view(epoch) for epoch in epochs})

    def batches(
        self,
        split: Split,
        epoch: int = 1,
        *,
        start: int = 0,
        images: Sequence[int] | None = None,
        shared: bool = True,
    ) -> Iterable[Batch]:
        """See `BatchSource`."""
        array = self.features(split, epoch)
        if array is None:
            return self._images.batches(split, epoch, start=start, images=images, shared=shared)
        draws = self._context.draws(
            split, epoch, start=start, images=images, shared=shared,
            evaluation_batch_size=_EVALUATION_BATCH_SIZE,
        )  # fmt: skip
        return self._read_ahead(array, split, draws)

    def features(self, split: Split, epoch: int = 1) -> NDArray[np.generic] | None:
        """float[N,...] of all images of a split, as that epoch sees them, mapped from the cache's
        file; None where batches are of images."""
        if split != "train":
            return self._array(split)
        return self._array(split, self._view(epoch)) if self._trains_from_features() else None

    def _trains_from_features(self) -> bool:
        """Mixup and cutmix mix images."""
        return self._context.config.mixup == 0 and self._context.config.cutmix == 0

    def _view(self, epoch: int) -> int:
        """Which augmented view an epoch trains on. Without augmentation there is one only."""
        if self._context.augmentation.description is None:
            return 0
        return (epoch - 1) % max(self._context.config.views, 1)

    def _plan_stage(self, boundary: int, views: set[int]) -> None:
        keys = [self._key(split, boundary) for split in SPLITS if split != "train"]
        if self._trains_from_features():
            keys += [self._key("train", boundary, view) for view in sorted(views)]
        wanted = {key.digest(): key.size_bytes for key in keys}
        size = sum(wanted.values())
        layer, values = self._layer(boundary), int(np.prod(keys[0].shape))
        limit = int(self._context.config.cache_limit)
        if evict(self._root, self._planned | wanted, limit):
            self._planned |= wanted
            self._context.reporter.say(
                f"caching the inputs of {layer}: {values:,} values an image, "
                f"{sum(key.count for key in keys):,} images and views, {size / 1e6:,.0f} MB in "
                f"{self._root}{self._why_bf16()}"
            )
        else:
            self._without.add(boundary)
            self._context.reporter.warn(
                f"not caching the inputs of {layer}: {size / 1e6:,.0f} MB ({values:,} values an "
                f"image) are more than cache_limit ({limit / 1e6:,.0f} MB) or the free disk at "
                f"{self._root} has room for; fewer views, cache_dtype float16 or a higher "
                "--cache-limit would help" + self._why_bf16()
            )

    def _why_bf16(self) -> str:
        if self._precision == self._context.accelerator.mixed_precision:
            return ""
        return "; computed in bf16, as this processor can (--mixed-precision no: in float32)"

    def _array(self, split: Split, view: int = 0) -> NDArray[np.generic] | None:
        """The features of a split, computed if need be; None where they are not cached."""
        boundary = self._tuner.boundary
        if boundary == 0 or self._context.config.views == 0 or boundary in self._without:
            return None
        key = self._key(split, boundary, view)
        digest = key.digest()
        if key.count and digest not in self._arrays:
            try:
                self._arrays[digest] = self._open(key, split, boundary, view)
            except OSError as error:
                self._without.add(boundary)
                self._context.reporter.warn(
                    f"features can't be cached in {self._root} ({error.strerror}); continuing "
                    "without"
                )
        return self._arrays.get(digest)

    def _open(self, key: FeatureKey, split: Split, boundary: int, view: int) -> NDArray[np.generic]:
        with FeatureFile(self._root, key) as file:
            what = f"features before {self._layer(boundary)} of {split}, view {view + 1}"
            started, missing = time.monotonic(), file.missing()
            if missing:
                self._fill(file, split, boundary, view)
                self._context.reporter.say(
                    f"{what}: computed in {time.monotonic() - started:.1f} s"
                )
            else:
                self._context.reporter.say(f"{what}: found")
            return file.array()

    def _fill(self, file: FeatureFile, split: Split, boundary: int, view: int) -> None:
        prefix = for_inference(self._modules()[:boundary])
        fill(
            file, self._context, split, self._precision,
            lambda inputs: _to_numpy(prefix(inputs), file.key.dtype),
            first_seed=view * file.key.count,
            bar=f"features of {split}, view {view + 1}",
        )  # fmt: skip

    def _read_ahead(
        self, array: NDArray[np.generic], split: Split, draws: EpochBatches
    ) -> Iterable[Batch]:
        """On a GPU, read by a thread, into memory from which it copies by itself."""
        on_gpu = self._context.accelerator.device.type == "cuda"
        read = self._read(array, split, draws, pin=on_gpu)
        return read_ahead(read) if on_gpu else read

    def _read(
        self, array: NDArray[np.generic], split: Split, draws: EpochBatches, *, pin: bool
    ) -> Iterator[Batch]:
        targets = torch.tensor(self._context.dataset(split).targets)
        for batch in draws:
            indices = torch.tensor([draw.image for draw in batch])
            features = torch.from_numpy(array[indices.numpy()])  # a copy: indexed by an array
            labels, weights = targets[indices], torch.tensor([draw.weight for draw in batch])
            if pin:
                features, labels, weights = (t.pin_memory() for t in (features, labels, weights))
            yield Batch(features, labels, indices, weights, self._tuner.boundary)

    def _layer(self, boundary: int) -> str:
        return self._modules()[boundary][0]

    def _modules(self) -> list[tuple[str, nn.Module]]:
        return self._context.architecture.sequence(self._tuner.model)

    def _key(self, split: Split, boundary: int, view: int = 0) -> FeatureKey:
        context = self._context
        device = context.accelerator.device
        augmentation = context.augmentation.description if split == "train" else None
        ingredients = {
            **what_values_depend_on(context, split, self._precision),
            "before": self._layer(boundary),
            "weights": self._prefix_digest(boundary),
            "augmentation": augmentation and augmentation | {"view": view},
        }
        return FeatureKey(
            ingredients,
            count=len(context.data.split(split)),
            shape=self._shape(boundary),
            dtype=context.config.feature_type(device.type),
            block_size=evaluation_batch_size(device, context.config.micro_batch_size),
        )

    def _shape(self, boundary: int) -> tuple[int, ...]:
        if boundary not in self._shapes:
            context = self._context
            shape = context.architecture.shape_before(boundary, context.config.image_size)
            self._shapes[boundary] = shape
        return self._shapes[boundary]

    def _prefix_digest(self, boundary: int) -> str:
        """SHA-256 of the frozen weights, which are the same throughout the run."""
        if boundary not in self._weights:
            self._weights[boundary] = weights_digest(self._modules()[:boundary])
        return self._weights[boundary]


def _to_numpy(features: Tensor, dtype: FeatureType) -> NDArray[np.generic]:
    """Raises FeatureError where a value is beyond the type's range."""
    values = features.float().cpu().numpy()
    largest = float(np.abs(values).max())
    if largest > float(np.finfo(dtype).max):
        raise FeatureError(
            f"features reach {largest:.0f}, more than {dtype} holds; use cache_dtype float32"
        )
    return values.astype(dtype)
