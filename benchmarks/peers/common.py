"""What the peers share: decode, model and answer. Needs numpy, Pillow and ONNX Runtime only."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from PIL import Image, ImageOps

_SHORT, _SIZE, _TOP = 256, 224, 5


@dataclass(frozen=True)
class Model:
    session: Any
    labels: list[str]

    def run(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """uint8[224,224,3] each -> float32[N,C]."""
        (probabilities,) = self.session.run(["probabilities"], {"images": np.stack(images)})
        result: NDArray[np.float32] = probabilities
        return result


def decode(data: bytes) -> NDArray[np.uint8]:
    """An encoded image -> uint8[224,224,3], RGB."""
    with Image.open(io.BytesIO(data)) as image:
        return prepare(image)


def prepare(image: Image.Image) -> NDArray[np.uint8]:
    """uint8[224,224,3] by the rule of torchvision's ImageClassification preset."""
    upright = ImageOps.exif_transpose(image).convert("RGB")
    width, height = upright.size
    long = int(_SHORT * max(width, height) / min(width, height))
    size = (_SHORT, long) if width <= height else (long, _SHORT)
    resized = upright.resize(size, Image.Resampling.BILINEAR)
    left, top = round((size[0] - _SIZE) / 2), round((size[1] - _SIZE) / 2)
    return np.asarray(resized.crop((left, top, left + _SIZE, top + _SIZE)))


def load(path: str | None = None) -> Model:
    """The model at `path` (MODEL_PATH), on the CPU; its labels are in spec.json beside it."""
    file = Path(path or os.environ["MODEL_PATH"])
    spec = json.loads(file.with_name("spec.json").read_text(encoding="utf-8"))
    return Model(ort.InferenceSession(file, providers=["CPUExecutionProvider"]), spec["labels"])


def reply(labels: Sequence[str], probabilities: NDArray[np.float32]) -> dict[str, Any]:
    """The five best of float32[C], as JSON."""
    best = np.argsort(probabilities)[::-1][:_TOP]
    return {
        "predictions": [
            {"label": labels[index], "probability": float(probabilities[index])} for index in best
        ]
    }
