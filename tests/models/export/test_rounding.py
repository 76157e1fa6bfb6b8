from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import helper

from models.bundle.bundle import FEATURES_OUTPUT, MODEL_FILE
from models.bundle.spec import ModelSpec
from models.export.int8 import input_ranges
from models.export.onnx_variants import Form, agreement, make_variant, probabilities
from models.export.rounding import Weights, correct_bias, equalize, layers_of
from models.machine import sums_int8_exactly
from testing.small_vgg import pixels, write_small_bundle

IMAGES = pixels(12, first_seed=10)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ModelSpec]:
    path = tmp_path_factory.mktemp("small") / "bundle"
    spec, _ = write_small_bundle(path)
    return path / MODEL_FILE, spec


def uneven(path: Path) -> onnx.ModelProto:
    """The same network, with the first layer's channels from 1/8 to 8 times as large, which the
    second layer takes back."""
    model = onnx.load(path)
    weights = Weights(model)
    first, second, *_ = layers_of(model)
    scale = np.geomspace(1 / 8, 8, len(weights.bias(first)), dtype=np.float32)[:, None, None]
    weights.replace(
        first, weights.weight(first) * scale[..., None], weights.bias(first) * scale.ravel()
    )
    weights.replace(second, weights.weight(second) / scale, weights.bias(second))
    return model


def outputs(model: onnx.ModelProto, spec: ModelSpec) -> list[NDArray[np.float32]]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [spec.output_name, FEATURES_OUTPUT]
    return session.run(names, {spec.input_name: IMAGES})  # type: ignore[no-any-return]


def test_equalized_network_answers_the_same(exported: tuple[Path, ModelSpec]) -> None:
    """Its features as well, which OOD detection reads: they stay in their own scale."""
    path, spec = exported
    model = uneven(path)
    before = outputs(model, spec)
    equalize(model, input_ranges(model, spec, IMAGES))
    after = outputs(model, spec)
    np.testing.assert_allclose(after[0], before[0], atol=2e-5)
    np.testing.assert_allclose(after[1], before[1], rtol=1e-4, atol=1e-4)


def test_channels_are_alike_afterwards(exported: tuple[Path, ModelSpec]) -> None:
    path, spec = exported
    model = uneven(path)
    second = layers_of(model)[1].input[0]
    before = input_ranges(model, spec, IMAGES)[second].largest
    equalize(model, input_ranges(model, spec, IMAGES))
    after = input_ranges(model, spec, IMAGES)[second].largest
    assert before.max() / before.min() > 20
    assert after.max() / after.min() < 0.5 * before.max() / before.min()


def test_an_output_in_between_keeps_its_scale(exported: tuple[Path, ModelSpec]) -> None:
    path, spec = exported
    model = uneven(path)
    first, second, *_ = layers_of(model)
    model.graph.output.append(onnx.ValueInfoProto(name=second.input[0]))
    before = Weights(model).weight(first).copy()
    equalize(model, input_ranges(model, spec, IMAGES))
    np.testing.assert_array_equal(Weights(model).weight(first), before)


def test_a_branch_keeps_its_scale(exported: tuple[Path, ModelSpec]) -> None:
    """Another node reads what lies between two layers."""
    path, spec = exported
    model = uneven(path)
    first, second, *_ = layers_of(model)
    model.graph.node.append(helper.make_node("Abs", [second.input[0]], ["aside"]))
    model.graph.output.append(onnx.ValueInfoProto(name="aside"))
    before = Weights(model).weight(first).copy()
    equalize(model, input_ranges(model, spec, IMAGES))
    np.testing.assert_array_equal(Weights(model).weight(first), before)


def test_bias_makes_up_for_rounded_weights(exported: tuple[Path, ModelSpec]) -> None:
    """On the calibration images a fully connected layer gives the same on average."""
    path, spec = exported
    model = onnx.load(path)
    ranges = input_ranges(model, spec, IMAGES)
    layer = next(node for node in layers_of(model) if node.op_type == "Gemm")
    weights = Weights(model)
    exact, bias = weights.weight(layer).copy(), weights.bias(layer).copy()
    steps = 4  # few, so that what rounding adds is large
    correct_bias(model, ranges, [layer], steps)
    step = np.abs(exact).max(axis=1, keepdims=True) / steps
    rounded = np.round(exact / step) * step
    mean = ranges[layer.input[0]].mean
    wanted = exact @ mean + bias
    assert np.abs(rounded @ mean + bias - wanted).max() > 0.01
    corrected = Weights(model)
    np.testing.assert_array_equal(corrected.weight(layer), exact)
    np.testing.assert_allclose(rounded @ mean + corrected.bias(layer), wanted, atol=1e-4)


def test_a_layer_without_bias_gets_one(exported: tuple[Path, ModelSpec]) -> None:
    """The exporter leaves out those that are zero."""
    path, spec = exported
    model = onnx.load(path)
    layer = next(node for node in layers_of(model) if len(node.input) == 2)
    correct_bias(model, input_ranges(model, spec, IMAGES), [layer], 4)
    assert len(layer.input) == 3
    assert np.abs(Weights(model).bias(layer)).max() > 0
    onnx.checker.check_model(model)
    outputs(model, spec)


@pytest.mark.skipif(not sums_int8_exactly(), reason="needs VNNI")
def test_int8_of_uneven_channels(exported: tuple[Path, ModelSpec], tmp_path: Path) -> None:
    """The smallest channels would have a few of 256 steps, if all shared a scale as they are."""
    path, spec = exported
    odd, target = tmp_path / "uneven.onnx", tmp_path / "int8.onnx"
    onnx.save_model(uneven(path), odd)
    worst = []
    for source in (path, odd):
        make_variant("int8", source, target, spec, IMAGES)
        expected = probabilities(Form(source), spec, IMAGES)
        actual = probabilities(Form(target), spec, IMAGES)
        worst.append(agreement(expected, actual).max_probability_difference)
    assert worst[1] < 2 * worst[0]
