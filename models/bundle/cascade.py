"""int8 that asks again where it can't tell: a model cascade.

A batch runs in int8. The images whose two most probable labels lie closer together than a margin
run once more in the bundle's own precision, and their whole answer comes from there. So a label can
differ from float32's only where int8 moved the two by more than the margin.
"""

from __future__ import annotations

from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

# What runs the images again: the float32 graph, mapped from the disk, or the same in bfloat16.
SecondPrecision = Literal["float32", "bf16"]
T = TypeVar("T", bound=np.generic)


class Cascade(BaseModel):
    """What `vgg19 export` found out about one.

    margin: 0..1; images whose two most probable labels in int8 lie no further apart run again.
    second: in which precision. images: held-out images that the margin was found on, others than
    those that the variant was judged on. share: of held-out images that run again, 0..1. cost: time
    of an image, with what runs again, by float32's on ONNX Runtime, on the slowest engine that the
    variant was measured on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    margin: float = Field(ge=0, le=1, allow_inf_nan=False)
    second: SecondPrecision
    images: int = Field(ge=0)
    share: float = Field(ge=0, le=1)
    cost: float = Field(ge=0)


def unsure(probabilities: NDArray[np.float32], margin: float) -> NDArray[np.bool_]:
    """Which rows can't tell: float32[N,C] -> bool[N]; those with NaN never can.

    A model of one class has one answer, so only NaN runs again.
    """
    finite: NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(probabilities), axis=1)
    if probabilities.shape[1] < 2:
        return ~finite
    best = np.partition(probabilities, -2, axis=1)[:, -2:]
    sure: NDArray[np.bool_] = np.asarray(best[:, 1] - best[:, 0] > margin)
    return ~(finite & sure)


def shifts(expected: NDArray[np.float32], actual: NDArray[np.float32]) -> NDArray[np.float32]:
    """How far rounding has moved `actual`'s best label away from any other one: float32[N,C] twice
    -> float32[N], 0 where `actual` isn't a number (`unsure` has it run again).

    Where the label is not `expected`'s, the two best of `actual` lie no further apart than this: if
    `expected` prefers b to a, and `actual` a to b by g, then (a - b) has moved by g at least.
    """
    moved = actual - expected
    best = actual.argmax(axis=1)
    found = moved[np.arange(len(moved)), best] - moved.min(axis=1)
    return np.where(np.isfinite(actual).all(axis=1), found, np.float32(0))


def merge(first: NDArray[T], second: NDArray[T], rows: NDArray[np.bool_]) -> NDArray[T]:
    """`first`, [N,...], with its True `rows` from `second`, [M,...], in their order."""
    merged = first.copy()
    merged[rows] = second
    return merged
