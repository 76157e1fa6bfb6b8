"""Images and models of the serving benchmark, kept in build/benchmarks/serving.

    python -m benchmarks.serving.workload real

makes a model before the benchmark does, for servers that are started by hand.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_images

from benchmarks.peers import common
from benchmarks.serving.decode import jpeg
from benchmarks.serving.load import ONE_IN
from benchmarks.serving.null_model import CLASSES, SPEC, seal_random, write_null_bundle
from models.bundle.bundle import MODEL_FILE
from models.bundle.cascade import Cascade
from models.bundle.golden import PARITY_TOLERANCE
from models.bundle.manifest import read_manifest
from models.bundle.openvino_graph import computes_in_bf16
from models.bundle.variants import (
    VARIANTS_FILE,
    Variant,
    VariantName,
    Variants,
    variant_files,
)
from models.bundle.writer import write_manifest
from models.export.onnx_export import ServingModule, export
from models.export.onnx_variants import Form, agreement, make_variant, probabilities
from models.network.build import build, initialise_from_data
from models.network.normalize import Normalize
from models.network.vgg19 import VGG19
from testing.server import put_into_production

PLACE = Path("build/benchmarks/serving")
SMALL, USUAL, LARGE = "64 x 64", "500 x 400", "12 megapixels"
OTHER = "500 x 400, another photograph"
_VARIANTS: tuple[VariantName, ...] = ("ncnn", "int8", "bf16")
_SIZES = {SMALL: (64, 64), USUAL: (500, 400), LARGE: (4000, 3000), OTHER: (500, 400)}


@dataclass(frozen=True)
class ServedBundle:
    """bundle: for the peers; home: BentoML's, in which the same is the production model;
    cascade_home: another's, where int8 runs `OTHER` again; None: it has no int8."""

    name: str
    bundle: Path
    home: Path
    cascade_home: Path | None = None

    @property
    def model_file(self) -> Path:
        return self.bundle / MODEL_FILE


@dataclass(frozen=True)
class Expected:
    """The most probable class of an image."""

    label: str
    probability: float


def photographs() -> dict[str, bytes]:
    """The same photograph in three sizes, as JPEG, and another one."""
    usual, other = (Image.fromarray(pixels) for pixels in load_sample_images().images)
    return {
        name: jpeg((other if name == OTHER else usual).resize(size))
        for name, size in _SIZES.items()
    }


def prepare(name: str) -> ServedBundle:
    """The bundle `null` or `real`; made once."""
    place = (PLACE / name).resolve()
    bundle, home = place / "bundle", place / "bentoml"  # as `put_into_production` has them
    if not (place / "complete").exists():
        shutil.rmtree(place, ignore_errors=True)
        (write_null_bundle if name == "null" else write_real_bundle)(bundle)
        put_into_production(bundle)
        if name == "real":
            put_into_production(write_cascade_bundle(bundle, place / "cascade" / "bundle"))
        (place / "complete").touch()
    cascade_home = place / "cascade" / "bentoml" if name == "real" else None
    return ServedBundle(name, bundle, home, cascade_home)


def write_real_bundle(path: Path) -> Path:
    """VGG-19 at 224 px with random weights, whose answers differ from class to class."""
    path.mkdir(parents=True)
    torch.manual_seed(0)
    pixels = torch.from_numpy(np.stack([common.decode(data) for data in photographs().values()]))
    inputs = Normalize(SPEC.preprocessing)(pixels)
    network = build(VGG19, "none", CLASSES).eval()
    initialise_from_data(VGG19, network, inputs)
    with torch.inference_mode():
        spread = float(network(inputs).std(dim=1).mean())
    # Divided by half their deviation, logits give one class most of the probability.
    module = ServingModule(network, SPEC, temperature=spread / 2)
    export(module, SPEC, path / MODEL_FILE)
    _write_variants(path, pixels.numpy())
    seal_random(path, "random VGG-19")
    return path


def _write_variants(path: Path, images: NDArray[np.uint8]) -> None:
    """The variants of a bundle that the benchmark serves, judged on the photographs."""
    source = path / MODEL_FILE
    answers = probabilities(Form(source), SPEC, images)
    variants = []
    for name in _VARIANTS:
        if name == "bf16" and not computes_in_bf16():
            continue
        form = Form.of(name, path)
        make_variant(name, source, form.path, SPEC, images)
        found = agreement(answers, probabilities(form, SPEC, images))
        variant = Variant(
            name=name,
            size_bytes=sum((path / file).stat().st_size for file in variant_files(name)),
            images=len(images),
            top1_agreement=found.top1,
            max_probability_difference=found.max_probability_difference,
            # Golden samples are noise here, unlike the photographs that int8 is fitted to.
            tolerance=PARITY_TOLERANCE if name == "ncnn" else 1.0,
            rest_in_bf16=name == "int8" and computes_in_bf16(),  # as `vgg19 export` has it
        )
        print(variant, flush=True)
        variants.append(variant)
    Variants(variants=variants).write(path / VARIANTS_FILE)


def write_cascade_bundle(source: Path, path: Path) -> Path:
    """The real bundle, with a margin by which int8 runs `OTHER` again, and no other photograph; in
    bf16 where this processor computes in it.

    Raises:
        RuntimeError: int8 is surer of `OTHER` than of another one.
    """
    written = Variants.read(source / VARIANTS_FILE)
    kept = [variant for variant in written.variants if variant.name in ("int8", "bf16")]
    left_out = {file for name in _VARIANTS for file in variant_files(name)}
    left_out -= {file for variant in kept for file in variant.files}
    shutil.copytree(source, path, ignore=lambda _, names: left_out & {*names})
    pixels = {name: common.decode(data) for name, data in photographs().items()}
    answers = probabilities(Form.of("int8", path), SPEC, np.stack([*pixels.values()]))
    best = np.sort(answers, axis=1)
    gaps = dict(zip(pixels, (best[:, -1] - best[:, -2]).tolist(), strict=True))
    unsure = gaps.pop(OTHER)
    if unsure >= min(gaps.values()):
        raise RuntimeError(f"int8 tells '{OTHER}' by {unsure:.3f}, others by {gaps}")
    cascade = Cascade(
        margin=(unsure + min(gaps.values())) / 2,
        second="bf16" if written.find("bf16") else "float32",
        images=0, share=1 / ONE_IN, cost=0,
    )  # fmt: skip
    print(cascade, flush=True)
    variants = [
        variant.model_copy(update={"cascade": cascade}) if variant.name == "int8" else variant
        for variant in kept
    ]
    Variants(variants=variants).write(path / VARIANTS_FILE)
    write_manifest(path, read_manifest(path).provenance)
    return path


def expected(served: ServedBundle, images: dict[str, bytes]) -> dict[str, Expected]:
    model = common.load(str(served.model_file))
    answers = {}
    for name, data in images.items():
        best = common.reply(model.labels, model.run([common.decode(data)])[0])["predictions"][0]
        answers[name] = Expected(best["label"], best["probability"])
    return answers


if __name__ == "__main__":
    print(prepare(sys.argv[1]).bundle)
