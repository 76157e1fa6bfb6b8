"""How an image becomes pixels, and how those become the network's input: part of a model's spec."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

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


Resize = Literal["crop", "squash", "pad"]


def _default_shorter_side(given: dict[str, Any]) -> int:
    """Of `Preprocessing.resize_size`, by the fields before it."""
    cropped = given.get("resize", "crop") == "crop"
    return IMAGENET_RESIZE_SIZE if cropped else int(given.get("image_size", IMAGENET_IMAGE_SIZE))


class Preprocessing(BaseModel):
    """How an image becomes pixels, and how pixels become the network's input.

    Geometry (`models.imaging.geometry`), by `resize`:

    - crop: the shorter side is resized to `resize_size`, then a centred square of `image_size` is
      cropped.
    - squash: the whole image is resized to the square, whatever its shape.
    - pad: the longer side is resized to `image_size`; `pad_colour` fills the rest.

    Where nothing is cropped, `resize_size` is `image_size`, also where it isn't given.
    Values (in the ONNX graph): `(pixel / 255 - mean) / std`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    image_size: int = Field(default=IMAGENET_IMAGE_SIZE, ge=MIN_IMAGE_SIZE)
    resize: Resize = "crop"
    resize_size: int = Field(default_factory=_default_shorter_side, ge=MIN_IMAGE_SIZE)
    interpolation: Literal["bilinear"] = "bilinear"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    @property
    def pad_colour(self) -> tuple[int, int, int]:
        """8-bit RGB of the padding: `mean`, so that it is 0, to half a level, once normalised."""
        red, green, blue = (round(255 * value) for value in self.mean)
        return red, green, blue

    @model_validator(mode="after")
    def _resize_size_fits(self) -> Self:
        if self.resize != "crop" and self.resize_size != self.image_size:
            raise ValueError(
                f"resize_size is {self.resize_size}, but resize {self.resize} crops nothing; leave "
                f"it out, or make it {self.image_size} (image_size)"
            )
        if self.resize_size < self.image_size:
            raise ValueError(
                f"resize_size is {self.resize_size}, smaller than image_size {self.image_size}; "
                "the crop would not fit"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_the_default(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Crop isn't named: versions that know nothing else refuse a key that they don't know."""
        content: dict[str, Any] = handler(self)
        if self.resize == "crop":
            del content["resize"]
        return content
