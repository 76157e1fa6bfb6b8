"""What the loop is fed with."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """What goes into module `start` of the network's sequence, and what is to come out.

    inputs: uint8[N,S,S,3] RGB where `start` is 0, else features, float32 or float16 [N,...];
    targets: int64[N]; indices: int64[N] into the data set; weights: float32[N], 0 for fillers.
    """

    inputs: Tensor
    targets: Tensor
    indices: Tensor
    weights: Tensor
    start: int = 0
