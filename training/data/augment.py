"""Augmentation, by torchvision.transforms.v2: of single images, and of batches (mixup, cutmix)."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms import RandomResizedCrop, v2

from models.imaging.image import load_image, load_part
from models.imaging.preprocessing import Preprocessing
from models.imaging.resampling import Box
from training.data.sampling import derive_seed

Augmentation = Literal["none", "basic", "trivial", "rand"]

# Of a random crop, width by height; torchvision's own.
_RATIOS = (3 / 4, 4 / 3)


class ImageAugmentation:
    """Decodes and augments one image, the same way whenever it gets the same seed.

    The seed is of the transforms for this image alone, so neither loader processes nor a
    continued run change what an image looks like.

    Where the network sees the centre crop of an image, random crops are taken from the whole
    image; where it sees the image squashed or padded, from that square.

    Args:
        crop_scale: smallest area of a random crop, as a share of the largest square in the image,
            or of the square that it was made.
    """

    def __init__(
        self,
        kind: Augmentation,
        preprocessing: Preprocessing,
        *,
        crop_scale: float,
        horizontal_flip: bool,
        random_erasing: float,
        seed: int,
    ) -> None:
        self._preprocessing = preprocessing
        self._crop_scale = crop_scale
        self._crops_image = kind != "none" and preprocessing.resize == "crop"
        self.description: dict[str, Any] | None = None
        """What decides how images change; None if they don't."""
        if kind != "none" or random_erasing > 0:
            self.description = {
                "kind": kind,
                "crop_scale": crop_scale,
                "crop_from": "image" if self._crops_image else "square",
                "horizontal_flip": horizontal_flip,
                "random_erasing": random_erasing,
                "seed": seed,
            }
        transforms: list[torch.nn.Module] = []
        if kind != "none" and not self._crops_image:
            size = (preprocessing.image_size, preprocessing.image_size)
            transforms.append(v2.RandomResizedCrop(size, scale=(crop_scale, 1.0), antialias=True))
        if kind != "none" and horizontal_flip:
            transforms.append(v2.RandomHorizontalFlip())
        if kind == "trivial":
            transforms.append(v2.TrivialAugmentWide())
        if kind == "rand":
            transforms.append(v2.RandAugment())
        if random_erasing > 0:
            transforms.append(v2.RandomErasing(random_erasing))
        self._transform = v2.Compose(transforms) if transforms else torch.nn.Identity()
        self._seed = seed

    def __call__(self, content: bytes, augmentation_seed: int) -> Tensor:
        """An encoded image -> uint8[S,S,3].

        Raises:
            ImageError: see `models.imaging.image.load_image`.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self._seed, "augment", augmentation_seed))
            # A copy: the array is a read-only view of Pillow's buffer, which torch warns about.
            pixels = torch.from_numpy(self._square(content).copy())
            augmented: Tensor = self._transform(pixels.permute(2, 0, 1))
        return augmented.permute(1, 2, 0)

    def _square(self, content: bytes) -> NDArray[np.uint8]:
        if not self._crops_image:
            return load_image(content, self._preprocessing)
        side = self._preprocessing.image_size
        least = math.sqrt(self._crop_scale * _RATIOS[0])
        return load_part(content, side, self._random_part, least=least)

    def _random_part(self, width: int, height: int) -> Box:
        """As torchvision's RandomResizedCrop chooses it, but with areas of the largest square.

        Of areas of the whole image, 0.6 and more hardly fit into an elongated one: of 2:1, 84% of
        the crops would be the same central one, and objects would have 0.6 times the area that they
        have when served.
        """
        shorter, longer = min(width, height), max(width, height)
        square = shorter / longer
        # Of an image smaller than the network's input, whole pixels would leave few choices.
        parts = math.ceil(self._preprocessing.image_size / shorter)
        top, left, rows, columns = RandomResizedCrop.get_params(
            torch.empty((1, height * parts, width * parts), device="meta"),
            [self._crop_scale * square, square],
            list(_RATIOS),
        )
        return left / parts, top / parts, (left + columns) / parts, (top + rows) / parts


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
