from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.models import VGG

from models.bundle.bundle import graph_bytes
from models.export.onnx_export import (
    PARITY_BATCH_SIZES,
    ExportError,
    ServingModule,
    export,
    prove_parity,
    reference_probabilities,
)
from models.network.build import build, initialise_from_data
from models.network.normalize import Normalize
from models.network.vgg19 import VGG19
from testing.bundles import tiny_spec
from testing.images import coloured_pixels
from testing.small_vgg import small_vgg

pytestmark = pytest.mark.slow

SPEC = tiny_spec()


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    return np.stack([coloured_pixels(seed) for seed in range(32)])


@pytest.fixture(scope="module")
def module(images: NDArray[np.uint8]) -> ServingModule:
    torch.manual_seed(0)
    model: VGG = build(VGG19, "none", num_classes=3)
    initialise_from_data(VGG19, model, Normalize(SPEC.preprocessing)(torch.from_numpy(images)))
    with torch.no_grad():
        model.classifier[6].weight *= 3  # spreads the probabilities out, as training does
    return ServingModule(model, SPEC)


@pytest.fixture(scope="module")
def exported(module: ServingModule, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export(module, SPEC, path)
    return path


def test_onnx_runtime_equals_pytorch(
    module: ServingModule, exported: Path, images: NDArray[np.uint8]
) -> None:
    parity = prove_parity(module, SPEC, exported, images)
    assert parity.batch_sizes == PARITY_BATCH_SIZES == (1, 3, 32)
    assert parity.max_probability_difference <= 1e-4


def test_interface_of_the_graph(exported: Path) -> None:
    graph = onnx.load(exported).graph
    (source,), (result, features) = graph.input, graph.output
    assert (source.name, source.type.tensor_type.elem_type) == ("images", onnx.TensorProto.UINT8)
    dims = [d.dim_param or d.dim_value for d in source.type.tensor_type.shape.dim]
    assert isinstance(dims[0], str)
    assert dims[1:] == [32, 32, 3]
    assert result.name == "probabilities"
    assert features.name == "features"
    for output, width in ((result, 3), (features, 4096)):
        assert output.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        assert output.type.tensor_type.shape.dim[1].dim_value == width


def test_weights_are_beside_the_graph(exported: Path) -> None:
    weights = exported.with_name("model.onnx.data")
    assert exported.stat().st_size < 4e6
    assert weights.stat().st_size > 550e6
    assert {path.name for path in exported.parent.iterdir()} == {exported.name, weights.name}
    assert graph_bytes(exported) == exported.stat().st_size + weights.stat().st_size


def test_the_file_tells_nothing_of_this_machine(exported: Path) -> None:
    content = exported.read_bytes()
    for trace in (str(Path(__file__).parents[3]), "stack_trace", "site-packages", "nn_module"):
        assert trace.encode() not in content


def test_few_held_out_images_are_enough(module: ServingModule, exported: Path) -> None:
    assert prove_parity(module, SPEC, exported, coloured_pixels(1)[None]).images == 1


def head_bias(module: ServingModule) -> Tensor:
    return module.model.get_parameter(f"{VGG19.head}.bias")


def test_other_weights_are_refused_with_the_difference(
    module: ServingModule, exported: Path, images: NDArray[np.uint8]
) -> None:
    bias = head_bias(module)
    with torch.no_grad():
        bias[0] += 0.5
    try:
        with pytest.raises(ExportError, match=r"differs from PyTorch by \d\.\d\de-0[1-3] .* 1e-04"):
            prove_parity(module, SPEC, exported, images)
    finally:
        with torch.no_grad():
            bias[0] -= 0.5


def test_nan_is_no_parity(module: ServingModule, exported: Path, images: NDArray[np.uint8]) -> None:
    bias = head_bias(module)
    before = bias.detach().clone()
    with torch.no_grad():
        bias.fill_(float("nan"))
    try:
        with pytest.raises(ExportError, match="nan"):
            prove_parity(module, SPEC, exported, images)
    finally:
        with torch.no_grad():
            bias.copy_(before)


def test_temperature_is_in_the_graph_and_changes_no_answer(
    images: NDArray[np.uint8], tmp_path: Path
) -> None:
    model = small_vgg().eval()
    module = ServingModule(model, SPEC)
    cooler = ServingModule(model, SPEC, temperature=2.5)
    export(cooler, SPEC, tmp_path / "cooler.onnx")
    prove_parity(cooler, SPEC, tmp_path / "cooler.onnx", images)
    plain, scaled = (reference_probabilities(m, images) for m in (module, cooler))
    assert (plain.argmax(axis=1) == scaled.argmax(axis=1)).all()
    expected = plain ** (1 / 2.5)
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(scaled, expected, atol=1e-6)
