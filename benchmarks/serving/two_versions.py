"""Two registered versions of a model, for what changes from one to the other."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from benchmarks.report import OUTPUT
from benchmarks.serving.null_model import CLASSES
from models.bundle.bundle import MODEL_FILE
from models.bundle.golden import GoldenSamples
from models.bundle.spec import ModelSpec
from models.bundle.writer import write_manifest
from models.export.onnx_export import ServingModule, export, reference_probabilities
from models.imaging.preprocessing import Preprocessing
from models.network.build import build
from models.network.vgg19 import VGG19
from testing.bundles import provenance, write_beside_model
from testing.commands import vgg19
from testing.server import register_version

_GOLDEN = 8  # as many as `vgg19 export` writes


@contextmanager
def two_versions(model: str, image_size: int) -> Iterator[tuple[Path, tuple[str, str]]]:
    """A home with two versions, of which the first is in production. Those of `vgg19` are made
    once, and kept in build/benchmarks/model-change. `tiny` answers in no time, `small` in some
    milliseconds."""
    if model in ("tiny", "small"):
        busy = int(model == "small")
        with tempfile.TemporaryDirectory() as name:
            tags = tuple(register_version(Path(name), day, busy=busy) for day in (1, 2))
            home = Path(name) / "home"
            vgg19(home, "promote", tags[0])
            yield home, (tags[0], tags[1])
        return
    place = (OUTPUT / "model-change" / str(image_size)).resolve()
    home, made = place / "home", place / "tags.json"
    if not made.exists():
        shutil.rmtree(place, ignore_errors=True)
        tags = _register_vgg19(place, image_size, 1), _register_vgg19(place, image_size, 2)
        made.write_text(json.dumps(tags))
    first, second = json.loads(made.read_text())
    vgg19(home, "promote", first)
    yield home, (first, second)


def _register_vgg19(place: Path, image_size: int, day: int) -> str:
    """A VGG-19 with random weights, made on that day of January 2026; its tag."""
    bundle = place / "bundle"
    bundle.mkdir(parents=True)
    resize = image_size * Preprocessing().resize_size // Preprocessing().image_size
    spec = ModelSpec(
        labels=tuple(f"class{number}" for number in range(CLASSES)),
        preprocessing=Preprocessing(image_size=image_size, resize_size=resize),
    )
    torch.manual_seed(day)
    module = ServingModule(build(VGG19, "none", CLASSES).eval(), spec)
    export(module, spec, bundle / MODEL_FILE)
    images = np.random.default_rng(day).integers(
        0, 256, (_GOLDEN, image_size, image_size, 3), dtype=np.uint8
    )
    golden = GoldenSamples(images=images, probabilities=reference_probabilities(module, images))
    write_beside_model(bundle, spec, golden, "random VGG-19")
    write_manifest(bundle, provenance(f"2026-01-0{day}T12:00:00+00:00"))
    home = place / "home"
    vgg19(home, "register", str(bundle))
    shutil.rmtree(bundle)
    (version,) = (path.name for path in (home / "models" / "vgg19").glob(f"2026010{day}-*"))
    return f"vgg19:{version}"
