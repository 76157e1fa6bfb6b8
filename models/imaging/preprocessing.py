"""How an image becomes pixels, and how those become the network's input: part of a model's spec."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

# VGG-19 halves its input five times; below 32 px nothing is left to pool.
# Source: `min_size` in torchvision's VGG19_Weights.IMAGENET1K_V1.meta.
MIN_IMAGE_SIZE = 32

# The geometry of torchvision's VGG19_Weights.IMAGENET1K_V1.transforms().
IMAGENET_IMAGE_SIZE = 224
IMAGENET_RESIZE_SIZE = 256
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def default_resize_size(image_size: int) -> int:
    """Pixels of the shorter side before the centre crop, in the pretrained ratio 256:224."""
    return round(image_size * IMAGENET_RESIZE_SIZE / IMAGENET_IMAGE_SIZE)


class Preprocessing(BaseModel):
    """How an image becomes pixels, and how pixels become the network's input.

    Geometry (`models.imaging.image`): the shorter side is resized to `resize_size`, then a centred
    square of `image_size` is cropped. Values (in the ONNX graph): `(pixel / 255 - mean) / std`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    image_size: int = Field(default=IMAGENET_IMAGE_SIZE, ge=MIN_IMAGE_SIZE)
    resize_size: int = Field(default=IMAGENET_RESIZE_SIZE, ge=MIN_IMAGE_SIZE)
    interpolation: Literal["bilinear"] = "bilinear"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    @model_validator(mode="after")
    def _crop_fits(self) -> Self:
        if self.resize_size < self.image_size:
            raise ValueError(
                f"resize_size is {self.resize_size}, smaller than image_size {self.image_size}; "
                "the crop would not fit"
            )
        return self
