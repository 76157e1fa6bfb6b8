"""What a model expects and what it answers: the contract between training and serving."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from models.errors import BundleError

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

    Geometry (`models.image`): the shorter side is resized to `resize_size`, then a centred
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


class ModelSpec(BaseModel):
    """The serving contract, stored as `spec.json` in every bundle.

    Input tensor `input_name`: uint8[N, image_size, image_size, 3], RGB.
    Output tensor `output_name`: float32[N, len(labels)], rows sum to 1; column i is `labels[i]`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = 1
    architecture: Literal["vgg19"] = "vgg19"
    labels: tuple[str, ...] = Field(min_length=2)
    preprocessing: Preprocessing = Preprocessing()
    input_name: str = "images"
    output_name: str = "probabilities"

    @model_validator(mode="after")
    def _labels_differ(self) -> Self:
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels must differ from each other")
        return self

    def write(self, path: Path) -> None:
        path.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> ModelSpec:
        """Read `spec.json`.

        Raises:
            BundleError: the file is missing or isn't a spec of a known format.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise BundleError(f"{path} does not exist; export the run again") from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise BundleError(f"{path} is not a model spec: {where}: {first['msg']}") from None
