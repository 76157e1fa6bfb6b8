"""What a model expects and what it answers: the contract between training and serving."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from models.bundle.json_file import JsonFile
from models.errors import BundleError
from models.imaging.preprocessing import Preprocessing

# VGG-19 halves its input five times.
_STRIDE = 32


class ModelSpec(JsonFile):
    """The serving contract, stored as `spec.json` in every bundle.

    Input tensor `input_name`: uint8[N, image_size, image_size, 3], RGB.
    Output tensor `output_name`: float32[N, len(labels)], rows sum to 1; column i is `labels[i]`.
    `architecture`: of `models.network.architectures`, for who trains; the service runs any graph.
    `heat_map_side`: values across a heat map.
    """

    format_version: Literal[1] = 1
    architecture: str = Field(default="vgg19", pattern="^[a-z0-9_-]+$")
    labels: tuple[str, ...] = Field(min_length=2)
    preprocessing: Preprocessing = Preprocessing()
    input_name: str = "images"
    output_name: str = "probabilities"
    heat_map_side: int = Field(
        default_factory=lambda fields: fields["preprocessing"].image_size // _STRIDE, ge=1
    )

    @model_serializer(mode="wrap")
    def _without_the_default(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """VGG-19's own side isn't named: versions from before refuse a key that they don't know."""
        content: dict[str, Any] = handler(self)
        if self.heat_map_side == self.preprocessing.image_size // _STRIDE:
            content.pop("heat_map_side", None)
        return content

    @model_validator(mode="after")
    def _labels_differ(self) -> Self:
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels must differ from each other")
        return self

    @classmethod
    def read(cls, path: Path) -> Self:
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
