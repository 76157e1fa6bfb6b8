"""Heat maps, held to the package `grad-cam` on the PyTorch model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torchvision.models import VGG

from models.bundle.bundle import graph_bytes
from models.bundle.spec import ModelSpec
from models.export import explainer_graph
from models.export.explainer_graph import HEAT_MAP_TOLERANCE, prove_heat_maps, write_explainer
from models.export.onnx_export import ExportError, ServingModule, export
from models.imaging.preprocessing import Preprocessing
from models.network.build import build, initialise_from_data
from models.network.grad_cam import grad_cam
from models.network.normalize import Normalize
from models.network.vgg19 import VGG19
from testing.bundles import tiny_spec
from testing.small_vgg import small_vgg, thin_vgg19

pytestmark = pytest.mark.slow

SIZES = (32, 64, 96, 224)


def noise(size: int, count: int = 4) -> NDArray[np.uint8]:
    """Smooth blobs of colour: unlike white noise, they light some places up and not others."""
    coarse = np.random.default_rng(0).integers(0, 256, (count, 3, 5, 5)).astype(np.float32)
    fine = torch.nn.functional.interpolate(torch.from_numpy(coarse), size=(size, size))
    return fine.permute(0, 2, 3, 1).byte().numpy()


def spec_of(size: int) -> ModelSpec:
    preprocessing = Preprocessing(image_size=size, resize_size=size)
    return ModelSpec(labels=("red", "green", "blue"), preprocessing=preprocessing)


def packages_maps(
    module: ServingModule, images: NDArray[np.uint8], target: int
) -> NDArray[np.float32]:
    """What `grad-cam` gives, before it enlarges the maps to the image's size."""
    inputs = module.normalize(torch.from_numpy(images))
    network: VGG = module.model
    side = network.features(inputs).shape[-1]
    with GradCAM(network, [network.features[-1]]) as cam:
        cam.get_target_width_height = lambda _: (side, side)
        maps: NDArray[np.float32] = cam(
            inputs.requires_grad_(), [ClassifierOutputTarget(target)] * len(images)
        )
    return maps


def graphs_maps(path: Path, images: NDArray[np.uint8], target: int) -> NDArray[np.float32]:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    targets = np.full(len(images), target, np.int64)
    (maps,) = session.run(["heatmap"], {"images": images, "target": targets})
    return maps  # type: ignore[no-any-return]


def explainer_of(module: ServingModule, spec: ModelSpec, directory: Path) -> Path:
    export(module, spec, directory / "model.onnx")
    write_explainer(directory / "model.onnx", directory / "model.explain.onnx", spec)
    return directory / "model.explain.onnx"


def lively(model: VGG, spec: ModelSpec) -> ServingModule:
    """Untrained, whose activations differ from image to image, as a trained network's do."""
    images = torch.from_numpy(noise(spec.preprocessing.image_size, 16))
    initialise_from_data(VGG19, model, Normalize(spec.preprocessing)(images))
    return ServingModule(model, spec, temperature=1.7)


@pytest.mark.parametrize(
    "size", [32, 64, *(pytest.param(size, marks=pytest.mark.exhaustive) for size in (96, 224))]
)
def test_graph_equals_the_package(size: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    spec = spec_of(size)
    module = lively(thin_vgg19(num_classes=3), spec)
    path = explainer_of(module, spec, tmp_path)
    images = noise(size)
    expected = np.stack([packages_maps(module, images, target) for target in range(3)])
    actual = np.stack([graphs_maps(path, images, target) for target in range(3)])
    assert actual.shape == expected.shape == (3, 4, size // 32, size // 32)
    assert np.abs(actual - expected).max() <= HEAT_MAP_TOLERANCE
    assert size == 32 or expected.max() > 0.99  # there is something to be equal to


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[ServingModule, Path]:
    """VGG-19 itself, at 64 pixels."""
    torch.manual_seed(0)
    spec = spec_of(64)
    module = lively(build(VGG19, "none", num_classes=3), spec)
    return module, explainer_of(module, spec, tmp_path_factory.mktemp("whole"))


@pytest.mark.exhaustive
def test_vgg19_equals_the_package(whole: tuple[ServingModule, Path]) -> None:
    module, path = whole
    images = noise(64)
    for target in range(3):
        expected = packages_maps(module, images, target)
        assert np.abs(graphs_maps(path, images, target) - expected).max() <= HEAT_MAP_TOLERANCE
        inputs = module.normalize(torch.from_numpy(images))
        own = grad_cam(VGG19, module.model, inputs, torch.full((4,), target)).numpy()
        assert np.abs(own - expected).max() <= 1e-5


@pytest.mark.exhaustive
def test_weights_are_shared_with_the_model(whole: tuple[ServingModule, Path]) -> None:
    _, path = whole
    assert path.stat().st_size < 20e6 < graph_bytes(path.with_name("model.onnx"))
    graph = onnx.load(path, load_external_data=False).graph
    locations = {
        entry.value
        for tensor in graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    assert locations == {"model.onnx.data"}


@pytest.mark.exhaustive
def test_each_image_has_a_class_of_its_own(whole: tuple[ServingModule, Path]) -> None:
    _, path = whole
    images = noise(64)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    targets = np.array([0, 1, 2, 0])
    (maps,) = session.run(["heatmap"], {"images": images, "target": targets})
    for number, target in enumerate(targets):
        alone = graphs_maps(path, images[number : number + 1], int(target))[0]
        np.testing.assert_allclose(maps[number], alone, atol=1e-4)


def test_nothing_speaks_for_a_class(tmp_path: Path) -> None:
    spec = tiny_spec()
    model = small_vgg()
    with torch.no_grad():
        model.classifier[6].weight.zero_()
    module = ServingModule(model, spec)
    path = explainer_of(module, spec, tmp_path)
    maps = graphs_maps(path, noise(32), 1)
    assert maps.shape == (4, 8, 8)  # it pools twice
    assert not maps.any()


def test_proof(tmp_path: Path) -> None:
    torch.manual_seed(0)
    spec = spec_of(64)
    module = lively(thin_vgg19(num_classes=3), spec)
    path = explainer_of(module, spec, tmp_path)
    assert prove_heat_maps(module, spec, path, noise(64)) <= HEAT_MAP_TOLERANCE
    with torch.no_grad():
        module.model.get_parameter("classifier.3.weight").neg_()
    with pytest.raises(ExportError, match=r"heat maps differ from PyTorch's by .*limit is 1e-03"):
        prove_heat_maps(module, spec, path, noise(64))


@pytest.mark.parametrize(("images", "by"), [(1, 0.01), (3, 0.01), (3, np.nan)])
def test_one_image_may_lie_where_the_gradient_jumps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: int, by: float
) -> None:
    """As one of a run on digits did."""
    torch.manual_seed(0)
    spec = spec_of(64)
    module = lively(thin_vgg19(num_classes=3), spec)
    path = explainer_of(module, spec, tmp_path)

    def jumps(*arguments: Any) -> torch.Tensor:
        maps = grad_cam(*arguments)
        maps[-1] += by
        return maps

    monkeypatch.setattr(explainer_graph, "grad_cam", jumps)
    if images > 1 and by == 0.01:
        assert prove_heat_maps(module, spec, path, noise(64)[:images]) <= HEAT_MAP_TOLERANCE
        return
    with pytest.raises(ExportError, match=r"by (1\.0e-02|nan)"):
        prove_heat_maps(module, spec, path, noise(64)[:images])
