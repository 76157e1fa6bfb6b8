"""Images, weights and a registered model for the other steps; made on the machine itself, since
none of it could travel."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from sklearn.datasets import load_sample_images

from benchmarks.gpu.place import Place
from benchmarks.serving.decode import jpeg
from benchmarks.serving.null_model import CLASSES
from models.bundle.bundle import MODEL_FILE
from models.bundle.golden import GoldenSamples
from models.bundle.spec import ModelSpec
from models.bundle.variants import VARIANTS_FILE, Variant, Variants, variant_files
from models.bundle.writer import write_manifest
from models.export.onnx_export import ServingModule, export, prove_parity, reference_probabilities
from models.export.onnx_variants import Form, agreement, make_variant, probabilities
from models.imaging.preprocessing import Preprocessing
from models.machine import cpu_count
from models.network.build import build, initialise_from_data
from models.network.normalize import Normalize
from models.network.vgg19 import VGG19
from testing.bundles import provenance, write_beside_model
from testing.commands import vgg19

WIDTH, HEIGHT = 500, 400
_VALIDATION_SHARE = 8
_GOLDEN = 8


def run(place: Place) -> None:
    write_images(place.data, place.scale.images)
    place.add("images", count=place.scale.images, size=f"{WIDTH} x {HEIGHT}")
    torch.manual_seed(0)
    pixels = torch.from_numpy(photographs(place, 16))
    network = build(VGG19, "none", 1000).eval()
    spec = _spec(place)
    initialise_from_data(VGG19, network, Normalize(spec.preprocessing)(pixels))
    torch.save(network.state_dict(), place.weights)
    write_bundle(place.bundle, place, spec, pixels.numpy())
    place.home.mkdir(parents=True)
    vgg19(place.home, "register", str(place.bundle))
    vgg19(place.home, "promote", "latest")
    place.add("bundle", size_mb=sum(f.stat().st_size for f in place.bundle.iterdir()) / 1e6)


def write_images(root: Path, count: int) -> None:
    """`count` different JPEGs, `root`/{train,val}/class/N.jpg, of ten classes."""
    with ProcessPoolExecutor(cpu_count()) as pool:
        list(pool.map(partial(_write_image, root), range(count), chunksize=16))


def photographs(place: Place, count: int) -> NDArray[np.uint8]:
    """uint8[N,S,S,3]: crops of two photographs."""
    size = place.scale.image_size
    return np.stack([np.asarray(_crop(number).resize((size, size))) for number in range(count)])


def write_bundle(path: Path, place: Place, spec: ModelSpec, pixels: NDArray[np.uint8]) -> None:
    """VGG-19 with its variant fp16, with random weights whose answers differ from class to
    class."""
    path.mkdir(parents=True)
    network = build(VGG19, str(place.weights), CLASSES).eval()
    with torch.inference_mode():
        spread = float(
            network(Normalize(spec.preprocessing)(torch.from_numpy(pixels))).std(dim=1).mean()
        )
    # Divided by half their deviation, logits give one class most of the probability.
    module = ServingModule(network, spec, temperature=spread / 2)
    export(module, spec, path / MODEL_FILE)
    parity = prove_parity(module, spec, path / MODEL_FILE, pixels)
    place.add("export", max_probability_difference=parity.max_probability_difference)
    golden = GoldenSamples(
        images=pixels[:_GOLDEN], probabilities=reference_probabilities(module, pixels[:_GOLDEN])
    )
    target = path / variant_files("fp16")[0]
    make_variant("fp16", path / MODEL_FILE, target, spec, pixels)
    found = agreement(golden.probabilities, probabilities(Form(target), spec, golden.images))
    place.add("variant fp16 on the CPU", **vars(found))
    variant = Variant(
        name="fp16",
        size_bytes=target.stat().st_size,
        images=len(golden.images),
        top1_agreement=found.top1,
        max_probability_difference=found.max_probability_difference,
        tolerance=max(2 * found.max_probability_difference, 0.02),
    )
    Variants(variants=[variant]).write(path / VARIANTS_FILE)
    write_beside_model(path, spec, golden, "random VGG-19")
    write_manifest(path, provenance())


def _spec(place: Place) -> ModelSpec:
    labels = tuple(f"class{number}" for number in range(CLASSES))
    return ModelSpec(labels=labels, preprocessing=Preprocessing(image_size=place.scale.image_size))


def _write_image(root: Path, number: int) -> None:
    split = "val" if number % _VALIDATION_SHARE == 0 else "train"
    folder = root / split / f"class{number // _VALIDATION_SHARE % CLASSES}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{number:05}.jpg").write_bytes(jpeg(_crop(number)))


def _crop(number: int) -> Image.Image:
    """A crop of one of two photographs, of another place, size and brightness each time."""
    random = np.random.default_rng(number)
    photograph = Image.fromarray(load_sample_images().images[number % 2])
    width = int(random.integers(300, 600))
    height = width * HEIGHT // WIDTH
    left, top = int(random.integers(640 - width)), int(random.integers(max(1, 427 - height)))
    crop = photograph.crop((left, top, left + width, top + height)).resize((WIDTH, HEIGHT))
    return ImageEnhance.Brightness(crop).enhance(float(random.uniform(0.6, 1.2)))
