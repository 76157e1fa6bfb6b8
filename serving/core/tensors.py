"""The tensors that clients of the v2 protocols send and get: one row each. Metadata, configuration,
the schema's lists of names, validation and both transports' answers follow from these tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from serving.core.errors import BadRequest
from serving.core.requests import InferResponse, RequestedOutput, top
from serving.core.served_model import ServedModel

Datatype = Literal["BYTES", "UINT8", "FP32", "BOOL"]
Values = NDArray[np.float32] | NDArray[np.bool_] | list[bytes]

IMAGE = "image"
PIXELS = "pixels"
PROBABILITIES = "probabilities"
LABEL = "label"
ACCEPTED = "accepted"
DISTANCE = "distance"
HEAT_MAP = "heatmap"
# As many as there are kinds would do, but for heat maps of several labels.
MAX_OUTPUTS = 16
# Values that take more than some milliseconds to write: not in the event loop.
LARGE_ANSWER = 20_000


@dataclass(frozen=True)
class InputTensor:
    """One of which a request has. `dims`: of one image, by the model; none for a single element."""

    name: str
    datatype: Datatype
    dims: Callable[[ServedModel], list[int]] = lambda model: []


@dataclass(frozen=True)
class OutputTensor:
    """One that may be asked for.

    Args:
        dims: of one image, by the model; none for a single element.
        compute: of an answer in which every image has one: float32[N,...], bool[N] or BYTES
            elements, N of them or N times `class_count`.
        is_there: whether the model has it.
        absence: why it may not, and the way out.
        by_default: whether those get it who name no outputs.
        takes: the parameters that it has ("classification", "target").
    """

    name: str
    datatype: Datatype
    compute: Callable[[InferResponse, RequestedOutput], Values]
    dims: Callable[[ServedModel], list[int]] = lambda model: []
    is_there: Callable[[ServedModel], bool] = lambda model: True
    absence: str = ""
    by_default: bool = False
    takes: frozenset[str] = frozenset()


T = TypeVar("T", InputTensor, OutputTensor)


@dataclass(frozen=True)
class Computed:
    """An output before it is put into a message. `values`: flat where they are BYTES."""

    asked: RequestedOutput
    datatype: Datatype
    shape: list[int]
    values: Values


def _probabilities(answer: InferResponse, asked: RequestedOutput) -> Values:
    rows = answer.probabilities
    if not asked.class_count:
        return rows
    labels = answer.model.spec.labels
    return [
        f"{p.probability:f}:{p.index}:{p.label}".encode()  # Triton's classification extension
        for row in rows
        for p in top(labels, row, asked.class_count)
    ]


def _labels(answer: InferResponse, _: RequestedOutput) -> Values:
    labels = answer.model.spec.labels
    return [labels[row.best()].encode() for row in answer.outputs()]


def _accepted(answer: InferResponse, _: RequestedOutput) -> Values:
    return np.array([answer.model.accepts(row) for row in answer.outputs()])


def _distances(answer: InferResponse, _: RequestedOutput) -> Values:
    return np.array([row.distance for row in answer.outputs()], np.float32)


def _heat_maps(answer: InferResponse, asked: RequestedOutput) -> Values:
    return np.stack([heat_map.values for heat_map in answer.heat_maps[asked.target]])


def _image_dims(model: ServedModel) -> list[int]:
    size = model.spec.preprocessing.image_size
    return [size, size, 3]


INPUTS: tuple[InputTensor, ...] = (
    InputTensor(IMAGE, "BYTES"),
    InputTensor(PIXELS, "UINT8", _image_dims),
)
TENSORS: tuple[OutputTensor, ...] = (
    OutputTensor(
        PROBABILITIES, "FP32", _probabilities,
        dims=lambda model: [len(model.spec.labels)],
        by_default=True, takes=frozenset({"classification"}),
    ),
    OutputTensor(LABEL, "BYTES", _labels, by_default=True),
    OutputTensor(ACCEPTED, "BOOL", _accepted),
    OutputTensor(
        DISTANCE, "FP32", _distances,
        is_there=lambda model: model.has_distance,
        absence="it was trained before there were any; train it again",
    ),
    OutputTensor(
        HEAT_MAP, "FP32", _heat_maps,
        dims=lambda model: [model.spec.heat_map_side] * 2,
        is_there=lambda model: model.explainer is not None,
        absence="they are off (VGG19_HEAT_MAPS), or the model was exported without them; "
        "'vgg19 export' makes them",
        takes=frozenset({"target"}),
    ),
)  # fmt: skip


def input_tensor(name: str) -> InputTensor | None:
    """By its name; None: there is none."""
    return _named(name, INPUTS)


def output_names() -> list[str]:
    return [tensor.name for tensor in TENSORS]


def default_outputs(*, binary: bool) -> list[RequestedOutput]:
    """For a request that names none."""
    return [RequestedOutput(t.name, binary=binary) for t in TENSORS if t.by_default]


def outputs_of(model: ServedModel) -> list[OutputTensor]:
    return [tensor for tensor in TENSORS if tensor.is_there(model)]


def check_output_count(count: int) -> None:
    """Raise BadRequest for more outputs than may be asked for; before anything is made of them."""
    if count > MAX_OUTPUTS:
        raise BadRequest(f"{count} outputs are asked for, the limit is {MAX_OUTPUTS}")


def check_output(asked: RequestedOutput, *, class_count: int | None) -> None:
    """Raise BadRequest for an output that there isn't, or that doesn't take its parameters.

    Args:
        class_count: as it was sent, None if it wasn't.
    """
    tensor = _row(asked.name)
    if tensor is None:
        there = ", ".join(output_names())
        raise BadRequest(f"there is no output '{asked.name[:50]}'; there are {there}")
    if asked.target and "target" not in tensor.takes:
        raise BadRequest(f"target is of '{_that_take('target')}', '{asked.name}' has none")
    if class_count is not None and (class_count < 1 or "classification" not in tensor.takes):
        raise BadRequest(
            f"{class_count} classes of '{asked.name}' are asked for; there are 1 or more of "
            f"'{_that_take('classification')}'"
        )


def check_there(model: ServedModel, outputs: Sequence[RequestedOutput]) -> None:
    """Raise BadRequest for an output that this model doesn't have; before any work is done."""
    for asked in outputs:
        tensor = _row(asked.name)
        if tensor is not None and not tensor.is_there(model):
            raise BadRequest(f"version {model.version} has no '{tensor.name}': {tensor.absence}")


def compute(answer: InferResponse, outputs: Sequence[RequestedOutput]) -> list[Computed]:
    """The outputs that were asked for, in that order.

    Raises:
        RequestError: an image has no answer; a tensor has one for all or none.
    """
    answer.outputs()
    return [_computed(answer, asked) for asked in outputs]


def answer_size(answer: InferResponse, outputs: Sequence[RequestedOutput]) -> int:
    """How many values the outputs will have."""
    each = 0
    for asked in outputs:
        tensor = _row(asked.name)
        each += math.prod(tensor.dims(answer.model)) if tensor is not None else 0
    return each * len(answer.rows)


def _computed(answer: InferResponse, asked: RequestedOutput) -> Computed:
    tensor = _row(asked.name)
    assert tensor is not None, "outputs are checked when a request is read"
    values = tensor.compute(answer, asked)
    if not isinstance(values, list):
        return Computed(asked, tensor.datatype, list(values.shape), values)
    count = len(answer.rows)
    shape = [count, len(values) // count] if asked.class_count else [count]
    return Computed(asked, "BYTES", shape, values)


def _row(name: str) -> OutputTensor | None:
    return _named(name, TENSORS)


def _named(name: str, rows: Sequence[T]) -> T | None:
    for tensor in rows:  # a generator takes four times as long, eight times a request
        if tensor.name == name:
            return tensor
    return None


def _that_take(parameter: str) -> str:
    return ", ".join(tensor.name for tensor in TENSORS if parameter in tensor.takes)
