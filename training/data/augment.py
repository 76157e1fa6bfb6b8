"""Augmentation, by torchvision.transforms.v2: of single images, and of batches (mixup, cutmix)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torchvision.transforms import v2

from training.data.sampling import derive_seed

Augmentation = Literal["none", "basic", "trivial", "rand"]


class ImageAugmentation:
    """Augments one image, the same way whenever it gets the same seed.

    The seed is of the transforms for this image alone, so neither loader processes nor a
    continued run change what an image looks like.
    """

    def __init__(
        self,
        kind: Augmentation,
        image_size: int,
        *,
        crop_scale: float,
        horizontal_flip: bool,
        random_erasing: float,
        seed: int,
    ) -> None:
        self.description: dict[str, Any] | None = None
        """What decides how images change; None if they don't."""
        if kind != "none" or random_erasing > 0:
            self.description = {
                "kind": kind,
                "crop_scale": crop_scale,
                "horizontal_flip": horizontal_flip,
                "random_erasing": random_erasing,
                "seed": seed,
            }
        transforms: list[torch.nn.Module] = []
        if kind != "none":
            size = (image_size, image_size)
            transforms.append(v2.RandomResizedCrop(size, scale=(crop_scale, 1.0), antialias=True))
            if horizontal_flip:
                transforms.append(v2.RandomHorizontalFlip())
        if kind == "trivial":
            transforms.append(v2.TrivialAugmentWide())
        if kind == "rand":
            transforms.append(v2.RandAugment())
        if random_erasing > 0:
            transforms.append(v2.RandomErasing(random_erasing))
        self._transform = v2.Compose(transforms) if transforms else None
        self._seed = seed

    def __call__(self, pixels: Tensor, augmentation_seed: int) -> Tensor:
        """uint8[S,S,3] -> uint8[S,S,3]."""
        if self._transform is None:
            return pixels
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self._seed, "augment", augmentation_seed))
            augmented: Tensor = self._transform(pixels.permute(2, 0, 1))
        return augmented.permute(1, 2, 0)


class BatchMixing:
    """Mixup (arXiv:1710.09412) or cutmix (arXiv:1905.04899) of a batch; with both, a random one."""

    def __init__(self, num_classes: int, *, mixup: float, cutmix: float) -> None:
        choices: list[torch.nn.Module] = []
        if mixup > 0:
            choices.append(v2.MixUp(alpha=mixup, num_classes=num_classes))
        if cutmix > 0:
            choices.append(v2.CutMix(alpha=cutmix, num_classes=num_classes))
        self._mix = v2.RandomChoice(choices) if choices else None

    def __call__(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """float32[N,3,S,S] and int64[N] -> the same, or mixed with float32[N,C] targets."""
        if self._mix is None:
            return inputs, targets
        mixed: tuple[Tensor, Tensor] = self._mix(inputs, targets)
        return mixed
