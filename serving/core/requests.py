"""What the core is asked and what it answers: plain classes without transport or protocol."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from models.monitoring.features import ImageMeasures
from serving.core.errors import DeadlineExceeded, RequestError, TooLarge
from serving.core.explainer import ExplainRequest, HeatMap
from serving.core.served_model import ServedModel
from serving.core.statistics import Timings
from serving.engine.session import ModelOutput

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Deadline:
    """When an answer must be there. One for a whole request: body, decoding, queue, inference,
    maps.

    at: by the clock of the event loop. limit_s: how long that was from the request's head.
    """

    at: float
    limit_s: float

    @classmethod
    def within(cls, limit_s: float) -> Deadline:
        return cls(asyncio.get_running_loop().time() + limit_s, limit_s)

    def passed(self) -> DeadlineExceeded:
        return DeadlineExceeded(f"no answer within {self.limit_s:g} s; try again later")

    async def off_loop(self, function: Callable[..., T], *arguments: object) -> T:
        """Call in a thread what would hold up the event loop.

        Raises:
            DeadlineExceeded: it took too long; the thread comes to its end by itself.
        """
        try:
            async with asyncio.timeout_at(self.at):
                return await asyncio.to_thread(function, *arguments)
        except TimeoutError:
            raise self.passed() from None


@dataclass(slots=True)  # frozen would cost a quarter of a microsecond for each field
class RequestedOutput:
    """A tensor to answer with, see `serving.core.tensors`.

    class_count: above 0 asks for that many classes as text. target: the label whose heat maps are
    asked for; "" is each image's most probable. binary: as raw bytes, where a protocol has both.
    """

    name: str
    class_count: int = 0
    target: str = ""
    binary: bool = False


@dataclass(slots=True)
class InferRequest:
    """Images to be classified, either encoded or as pixels.

    Args:
        images: encoded ones.
        pixels: uint8[N,S,S,3], RGB, with the model's S, decoded and resized by the client.
        outputs: the tensors to answer with, where the protocol has tensors.
        version: of the model; "": the current one.
        id: the client's own, which its answer repeats.
        deadline: None: the service's own limit, from now.
        explain: for heat maps, each of which takes about as long again.
        all_or_nothing: an image that can't be decoded ends the request before the model runs;
            otherwise it fails alone.
    """

    images: Sequence[bytes] = ()
    pixels: NDArray[np.uint8] | None = None
    outputs: Sequence[RequestedOutput] = ()
    version: str = ""
    id: str = ""
    deadline: Deadline | None = None
    explain: Sequence[ExplainRequest] = ()
    all_or_nothing: bool = False

    @property
    def count(self) -> int:
        return len(self.images) if self.pixels is None else len(self.pixels)


@dataclass(frozen=True)
class InferResponse:
    """Of the model that gave it: for each image what it says, or why it says nothing.

    measures: of the images that have an answer, in their order; none where nobody wants them.
    heat_maps: for each target that was asked for ("" is each image's most probable label), those of
    the images that have an answer.
    """

    model: ServedModel
    rows: list[ModelOutput | RequestError]
    timings: Timings
    measures: Sequence[ImageMeasures] = ()
    heat_maps: Mapping[str, list[HeatMap]] = field(default_factory=dict)

    @cached_property
    def probabilities(self) -> NDArray[np.float32]:
        """float32[N,C].

        Raises:
            RequestError: see `outputs`.
        """
        rows = [row.probabilities for row in self.outputs()]
        return rows[0][np.newaxis] if len(rows) == 1 else np.stack(rows)

    def outputs(self) -> list[ModelOutput]:
        """What the model says of all images.

        Raises:
            RequestError: of the first image without an answer.
        """
        rows = []
        for row in self.rows:
            if isinstance(row, RequestError):
                raise row
            rows.append(row)
        return rows


@dataclass(slots=True)
class Prediction:
    """One label with its column in the output and its probability, 0..1."""

    label: str
    index: int
    probability: float


def top(
    labels: Sequence[str], probabilities: NDArray[np.float32], top_k: int, threshold: float = 0.0
) -> list[Prediction]:
    """The most probable labels of one row, best first: at most `top_k`, none below `threshold`."""
    order = (-probabilities).argsort(kind="stable")[:top_k]
    best = zip(order.tolist(), probabilities[order].tolist(), strict=True)
    return [
        Prediction(labels[i], i, probability) for i, probability in best if probability >= threshold
    ]


def check_image_count(count: int, limit: int, or_more: str = "") -> None:
    """Raise TooLarge for more images than a request may have; before anything is made of them."""
    if count > limit:
        raise TooLarge(
            f"the request has {count}{or_more} images, the limit is {limit} "
            "(VGG19_MAX_REQUEST_IMAGES)"
        )


def check_image_size(size: int, limit: int, name: str = "the image") -> None:
    """Raise TooLarge for an encoded image of more bytes than one may have."""
    if size > limit:
        raise TooLarge(
            f"{name} is {size / 1e6:.1f} MB, the limit is {limit / 1e6:.1f} MB "
            "(VGG19_MAX_IMAGE_BYTES)"
        )
