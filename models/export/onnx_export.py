"""PyTorch -> model.onnx, proved equal to PyTorch before anyone may use it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper
from torch import Tensor, nn

from models.bundle.bundle import FEATURES_OUTPUT, weights_beside
from models.bundle.golden import PARITY_TOLERANCE
from models.bundle.spec import ModelSpec
from models.errors import UserError
from models.network.normalize import Normalize

# A single image, an odd count and a full batch.
PARITY_BATCH_SIZES = (1, 3, 32)

# Ops of opset 20 are known to every ONNX Runtime since 1.17.
OPSET_VERSION = 20

# Of VGG-19's tensors, all but the first convolutions' and the biases are larger.
_EXTERNAL_BYTES = 1_000_000


class ExportError(UserError):
    """The exported graph doesn't answer as PyTorch does."""


@dataclass(frozen=True)
class Parity:
    """How far ONNX Runtime was from PyTorch: the largest difference in any probability."""

    batch_sizes: tuple[int, ...]
    images: int
    max_probability_difference: float
    tolerance: float


class ServingModule(nn.Module):
    """What is exported: uint8[N,S,S,3] RGB -> float32[N,C] probabilities, rows sum to 1.

    Args:
        temperature: what the logits are divided by, see `training.evaluate.calibration`; no answer
            changes.
    """

    def __init__(self, model: nn.Module, spec: ModelSpec, temperature: float = 1.0) -> None:
        super().__init__()
        self.normalize = Normalize(spec.preprocessing)
        self.model = model
        self.temperature = temperature
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        logits = self.model(self.normalize(images))
        if self.temperature != 1.0:
            logits = logits / self.temperature
        return torch.softmax(logits, dim=1)


def export(module: ServingModule, spec: ModelSpec, path: Path) -> None:
    """Write `module` as an ONNX file with a dynamic batch size.

    Tensor names and the image size are those of `spec`; beside the probabilities there is what goes
    into the head, float32[N,K] (of VGG-19 what FC2 gives, K = 4096). Large weights go into
    `path`.data, which ONNX Runtime maps instead of parsing and copying it: a session starts in a
    third of the time (docs/benchmarks.md).
    """
    size = spec.preprocessing.image_size
    example = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    graph = as_graph(module, example, spec.input_name, spec.output_name)
    _give_features(graph.graph)
    onnx.save_model(
        graph,
        path,
        save_as_external_data=True,
        location=weights_beside(path).name,
        size_threshold=_EXTERNAL_BYTES,
    )


def as_graph(module: nn.Module, example: Tensor, input_name: str, output_name: str) -> ModelProto:
    """A module of one input and one output, with a dynamic batch size, as ONNX; free of the
    exporter's traces of this machine's source paths.

    Args:
        example: an input; a batch of two, since the exporter takes one for a constant.
    """
    with _quiet_exporter():
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            opset_version=OPSET_VERSION,
            input_names=[input_name],
            output_names=[output_name],
            dynamic_shapes=({0: torch.export.Dim("N")},),
            verbose=False,
        )
    assert program is not None
    graph: ModelProto = program.model_proto
    _strip_traces(graph)
    return graph


def prove_parity(
    module: ServingModule, spec: ModelSpec, path: Path, images: NDArray[np.uint8]
) -> Parity:
    """Compare ONNX Runtime on `path` with PyTorch on `module` at every `PARITY_BATCH_SIZES`.

    Args:
        images: uint8[N,S,S,3], held out. Fewer than a batch are repeated.

    Raises:
        ExportError: another top-1 or a difference above `PARITY_TOLERANCE` in any probability.
    """
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    largest = 0.0
    for batch_size in PARITY_BATCH_SIZES:
        batch = images[np.arange(batch_size) % len(images)]
        expected = reference_probabilities(module, batch)
        (actual,) = session.run([spec.output_name], {spec.input_name: batch})
        largest = max(largest, _check(expected, actual, batch_size))
    return Parity(PARITY_BATCH_SIZES, len(images), largest, PARITY_TOLERANCE)


def reference_probabilities(
    module: ServingModule, images: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """What PyTorch answers: uint8[N,S,S,3] -> float32[N,C]."""
    with torch.inference_mode():
        probabilities: NDArray[np.float32] = module(torch.from_numpy(images)).numpy()
    return probabilities


def _check(expected: NDArray[np.float32], actual: NDArray[np.float32], batch_size: int) -> float:
    if actual.shape != expected.shape:
        raise ExportError(
            f"the graph answers {actual.shape} where PyTorch answers {expected.shape}"
        )
    # Not `max() > tolerance`: that comparison is False for NaN and would let it pass.
    difference = float(np.abs(actual - expected).max())
    if not difference <= PARITY_TOLERANCE:
        raise ExportError(
            f"the exported graph differs from PyTorch by {difference:.2e} in a probability at "
            f"batch size {batch_size}, the limit is {PARITY_TOLERANCE:.0e}; the checkpoint is not "
            "exported, please report it with the versions from 'pip freeze'"
        )
    changed = int((actual.argmax(axis=1) != expected.argmax(axis=1)).sum())
    if changed:
        raise ExportError(
            f"the exported graph gives another top-1 label than PyTorch for {changed} of "
            f"{batch_size} held-out images (largest difference {difference:.2e}), none may differ"
        )
    return difference


def _give_features(graph: onnx.GraphProto) -> None:
    """Make the head's input an output, too, under its own name."""
    *_, head = (node for node in graph.node if node.op_type == "Gemm")
    old = head.input[0]
    width = next(tensor.dims[1] for tensor in graph.initializer if tensor.name == head.input[1])
    for node in graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name == old:
                    names[place] = FEATURES_OUTPUT
    infos = [info for info in graph.value_info if info.name != old]
    del graph.value_info[:]
    graph.value_info.extend(infos)
    graph.output.append(
        helper.make_tensor_value_info(FEATURES_OUTPUT, TensorProto.FLOAT, ["N", width])
    )


def _strip_traces(graph: onnx.ModelProto) -> None:
    """Drop the stack traces and module names that the exporter attaches to every node."""
    for node in graph.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for value in (*graph.graph.value_info, *graph.graph.initializer):
        value.ClearField("metadata_props")
        value.ClearField("doc_string")
    graph.graph.ClearField("metadata_props")
    graph.graph.ClearField("doc_string")
    graph.ClearField("metadata_props")


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keep the exporter's notes to its own developers off the user's terminal."""
    noisy = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in noisy]
    for logger in noisy:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(noisy, levels, strict=True):
            logger.setLevel(level)
