"""The core of the service: images -> decode -> batch -> probabilities. Knows no transport."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from models.bundle.spec import ModelSpec
from models.errors import ImageError, TooManyPixels, UnknownFormat
from models.imaging.image import decode_image
from models.monitoring.features import ImageMeasures
from models.text import as_label, shown
from serving.core.batcher import BatchResult
from serving.core.decode_budget import DecodeBudget
from serving.core.errors import BadImage, BadRequest, RequestError, TooLarge
from serving.core.explainer import Explainer, ExplainItem, ExplainRequest
from serving.core.pool import ModelPool
from serving.core.requests import (
    Deadline,
    InferRequest,
    InferResponse,
    check_image_count,
    check_image_size,
)
from serving.core.served_model import ServedModel
from serving.core.statistics import Timings
from serving.core.tensors import check_there
from serving.engine.session import ModelOutput


@dataclass(frozen=True, slots=True)
class Prepared:
    """An image as the model gets it, uint8[S,S,3], and what was measured of it (None: nobody wants
    that)."""

    pixels: NDArray[np.uint8]
    measures: ImageMeasures | None


Row = Prepared | RequestError
PixelRow = NDArray[np.uint8] | RequestError
# Called in the event loop with an answer that is ready, the pixels of each image (or why it has
# none), and the request.
Watcher = Callable[[InferResponse, Sequence[PixelRow], InferRequest], None]
# Called in the event loop with a request that names no version, and the current model.
Router = Callable[[InferRequest, ServedModel], ServedModel]
# Called in the event loop with the model that a router chose, and why it gave no answer.
FailureWatcher = Callable[[ServedModel, BaseException], None]


@dataclass(frozen=True)
class Limits:
    """What one request may ask for."""

    max_image_bytes: int
    max_image_pixels: int
    max_request_images: int
    max_request_bytes: int
    request_timeout_s: float
    image_formats: tuple[str, ...]

    def deadline(self, timeout_s: float | None = None) -> Deadline:
        """Of a request whose head has come now.

        Args:
            timeout_s: the client's own limit, which counts if it is shorter.
        """
        limit_s = self.request_timeout_s
        return Deadline.within(limit_s if timeout_s is None else min(limit_s, timeout_s))


class DataPlane:
    """Answers requests with the models of a pool.

    Args:
        models: see `ModelPool`.
        decoders: its threads decode; Pillow releases the GIL while it does.
        limits: of a request.
        on_answer: called in the event loop with each answer, and the encoded images that it is for
            (none where a client sent pixels).
        measures: have answers with what is measured of images.
    """

    def __init__(
        self,
        models: ModelPool,
        decoders: DecodeBudget,
        limits: Limits,
        on_answer: Callable[[InferResponse, Sequence[bytes]], None] = lambda answer, images: None,
        *,
        measures: bool = False,
    ) -> None:
        self.models = models
        self.limits = limits
        self._decoders = decoders
        self._on_answer = on_answer
        self._measures = measures
        # They are there only while something is tried beside production.
        self.watcher: Watcher | None = None
        self.router: Router | None = None
        self.failure_watcher: FailureWatcher | None = None

    async def infer(self, request: InferRequest) -> InferResponse:
        """Classify the images of a request, of which there are 1..`limits.max_request_images`.

        Raises:
            TooLarge: too many images.
            BadRequest: the pixels have another shape; the model lacks an output, or has no heat
                maps of that class.
            BadImage: one can't be decoded, where the request is answered whole or not at all.
            UnknownModel: the version isn't loaded.
            DeadlineExceeded: the answer took too long.
            Overloaded, ShuttingDown, BatchFailed: see `Batcher.submit`.
        """
        check_image_count(request.count, self.limits.max_request_images)
        model = self.models.get(self.models.current.name, request.version)
        if self.router is None or request.version:
            return await self._infer(request, model)
        model = self.router(request, model)
        try:
            return await self._infer(request, model)
        except BaseException as error:  # cancelled, too
            if self.failure_watcher is not None:
                self.failure_watcher(model, error)
            raise

    async def _infer(self, request: InferRequest, model: ServedModel) -> InferResponse:
        async with _Answering(model, request.deadline or self.limits.deadline()) as started:
            check_there(model, request.outputs)
            explaining = _Explaining(model, request.explain) if request.explain else None
            model.batcher.check_room(request.count)  # before the work of decoding
            rows = await self._rows(request, model.spec)
            decode_s = 0.0 if request.pixels is not None else time.perf_counter() - started
            good = [row for row in rows if not isinstance(row, RequestError)]
            pixels = [row.pixels for row in good]
            batch = await model.batcher.submit(pixels) if good else BatchResult([], 0.0, 0.0)
            results = iter(batch.results)
            answered = [row if isinstance(row, RequestError) else next(results) for row in rows]
            timings = Timings(decode_s, batch.queue_s, batch.inference_s)
            measures = [row.measures for row in good if row.measures is not None]
            answer = InferResponse(model, answered, timings, measures)
            if explaining is not None:
                answer = await explaining.explained(answer, pixels, batch.results)
            self._answer(answer, request.images, started)
            if self.watcher is not None:
                self.watcher(answer, [_pixels_of(row) for row in rows], request)
            return answer

    def _answer(self, answer: InferResponse, images: Sequence[bytes], started: float) -> None:
        """Count an answer, and tell of it."""
        seconds = time.perf_counter() - started
        if all(isinstance(row, RequestError) for row in answer.rows):
            answer.model.statistics.failed.add(seconds)
        else:
            answer.model.statistics.count_answer(answer.timings, seconds)
        self._on_answer(answer, images)

    async def _rows(self, request: InferRequest, spec: ModelSpec) -> Sequence[Row]:
        """Each image as the model gets it, or why it can't be.

        Raises:
            BadRequest: the pixels have another shape.
            RequestError: of the first image without pixels, if the request is all or nothing.
        """
        if request.pixels is not None:
            _check_pixels(request.pixels, spec.preprocessing.image_size)
            return [self._prepared(pixels) for pixels in request.pixels]
        rows = await self._decode_all(request.images, spec)
        if request.all_or_nothing:
            for row in rows:
                if isinstance(row, RequestError):
                    raise row
        return rows

    def _prepared(self, pixels: NDArray[np.uint8]) -> Prepared:
        """Pixels that a client sent."""
        return Prepared(pixels, ImageMeasures.of_pixels(pixels) if self._measures else None)

    async def _decode_all(self, images: Sequence[bytes], spec: ModelSpec) -> list[Row]:
        return await self._decoders.decode(images, partial(self._decode, spec))

    def _decode(self, spec: ModelSpec, name: str, image: bytes, max_pixels: int | None) -> Row:
        """See `Decode`. `name` tells it from others of its request."""
        prefix = f"{name}: " if name else ""
        limit = self.limits.max_image_pixels
        try:
            check_image_size(len(image), self.limits.max_image_bytes, name or "the image")
            decoded = decode_image(
                image,
                spec.preprocessing,
                max_pixels=min(max_pixels or limit, limit),
                formats=self.limits.image_formats,
            )
            measures = ImageMeasures.of(decoded) if self._measures else None
            return Prepared(decoded.pixels, measures)
        except TooLarge as error:
            return error
        except TooManyPixels as error:
            if error.pixels <= limit:
                raise
            counts = TooManyPixels(error.width, error.height, limit)  # the one that may be set
            return BadImage(f"{prefix}{counts} (VGG19_MAX_IMAGE_PIXELS)")
        except UnknownFormat as error:
            return BadImage(f"{prefix}{error} (VGG19_IMAGE_FORMATS)")
        except ImageError as error:
            return BadImage(f"{prefix}{error}")


def _check_pixels(pixels: NDArray[np.uint8], size: int) -> None:
    if pixels.shape[1:] != (size, size, 3):
        raise BadRequest(
            f"the pixels have shape {list(pixels.shape)}, it must be [N, {size}, {size}, 3]"
        )


class _Explaining:
    """Heat maps that are asked for, looked at before any work is done for them.

    Raises:
        BadRequest: the model has none, or no such class.
    """

    def __init__(self, model: ServedModel, asked: Sequence[ExplainRequest]) -> None:
        if model.explainer is None:
            raise BadRequest(
                f"version {model.version} has no heat maps: they are off (VGG19_HEAT_MAPS), or the "
                "model was exported without them; 'vgg19 export' makes them"
            )
        labels = model.spec.labels
        # A client may spell é as one character or as two.
        columns = {as_label(label): column for column, label in enumerate(labels)}
        for explain in asked:
            if explain.target and as_label(explain.target) not in columns:
                raise BadRequest(
                    f"target is '{shown(explain.target[:50])}', it must be one of the model's "
                    f"{len(labels)} labels: {', '.join(labels[:5])}"
                    f"{', ...' if len(labels) > 5 else ''}"
                )
        self._explainer: Explainer = model.explainer
        self._columns = {
            explain.target: columns[as_label(explain.target)] if explain.target else None
            for explain in asked
        }

    async def explained(
        self,
        answer: InferResponse,
        pixels: Sequence[NDArray[np.uint8]],
        rows: Sequence[ModelOutput],
    ) -> InferResponse:
        """The answer with a map of each image for each target.

        Args:
            pixels: uint8[S,S,3] each. rows: what the model says of them.
        """
        if not pixels:
            return answer
        started = time.perf_counter()
        items = [
            ExplainItem(image, row.best() if column is None else column)
            for column in self._columns.values()
            for image, row in zip(pixels, rows, strict=True)
        ]
        maps = await self._explainer.explain(items)
        each = len(pixels)
        of_target = {
            target: maps[place * each : (place + 1) * each]
            for place, target in enumerate(self._columns)
        }
        timings = replace(answer.timings, explain_s=time.perf_counter() - started)
        return replace(answer, heat_maps=of_target, timings=timings)


class _Answering:
    """Around one request: its model, kept loaded until the answer, and when it began.

    A class, because generators behind three `async with` took a tenth of the loop's time.

    Raises:
        DeadlineExceeded: the time limit passed.
    """

    def __init__(self, model: ServedModel, deadline: Deadline) -> None:
        self._model = model
        self._deadline = deadline
        self._timeout = asyncio.timeout_at(deadline.at)
        self._started = 0.0

    async def __aenter__(self) -> float:
        self._started = time.perf_counter()
        self._model.acquire()
        await self._timeout.__aenter__()
        return self._started

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._model.release()
        if kind is not None:  # cancelled, too
            self._model.statistics.failed.add(time.perf_counter() - self._started)
        try:
            await self._timeout.__aexit__(kind, error, traceback)
        except TimeoutError:
            raise self._deadline.passed() from None


def _pixels_of(row: Row) -> PixelRow:
    return row if isinstance(row, RequestError) else row.pixels
