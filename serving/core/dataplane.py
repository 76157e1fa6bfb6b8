"""The core of the service: bytes -> decode -> batch -> probabilities. Knows no transport."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from models.errors import ImageError, UnknownFormat
from models.image import load_image
from models.spec import ModelSpec
from serving.core.batcher import BatchResult
from serving.core.errors import BadImage, BadRequest, DeadlineExceeded, RequestError, TooLarge
from serving.core.explainer import Explainer, ExplainItem, ExplainRequest
from serving.core.pool import ModelPool, ServedModel
from serving.core.requests import InferResponse
from serving.core.statistics import Timings
from serving.core.workers import Workers
from serving.engine.session import ModelOutput


@dataclass(frozen=True)
class Limits:
    """What one request may ask for."""

    max_image_bytes: int
    max_image_pixels: int
    max_request_images: int
    max_request_bytes: int
    request_timeout_s: float
    image_formats: tuple[str, ...]


class DataPlane:
    """Answers requests with the models of a pool.

    Args:
        models: see `ModelPool`.
        decoders: threads that decode; Pillow releases the GIL while it does.
        limits: of a request.
        on_answer: called in the event loop with each answer, and the encoded images that it is for
            (none where a client sent pixels).
    """

    def __init__(
        self,
        models: ModelPool,
        decoders: Workers,
        limits: Limits,
        on_answer: Callable[[InferResponse, Sequence[bytes]], None] = lambda answer, images: None,
    ) -> None:
        self.models = models
        self.limits = limits
        self._decoders = decoders
        self._on_answer = on_answer

    async def classify(
        self,
        images: Sequence[bytes],
        *,
        version: str = "",
        timeout_s: float | None = None,
        explain: ExplainRequest | None = None,
    ) -> InferResponse:
        """Classify encoded images. One that can't be decoded fails alone.

        Args:
            images: 1..`limits.max_request_images` encoded images.
            version: of the model; empty: the current one.
            timeout_s: the client's own time limit; the service's applies as well.
            explain: for heat maps, which take about as long again; None: there are none.

        Raises:
            TooLarge: too many images.
            BadRequest: the model has no heat maps, or not of that class.
            UnknownModel: the version isn't loaded.
            DeadlineExceeded: the answer took too long.
            Overloaded, ShuttingDown, BatchFailed: see `Batcher.submit`.
        """
        self._check_count(len(images))
        async with self._answering(version, timeout_s) as (model, started):
            explaining = None if explain is None else _Explaining(model, explain)
            model.batcher.check_room(len(images))  # before the work of decoding
            rows = await self._decode_all(images, model.spec)
            decode_s = time.perf_counter() - started
            good = [row for row in rows if not isinstance(row, RequestError)]
            batch = await model.batcher.submit(good) if good else BatchResult([], 0.0, 0.0)
            results = iter(batch.results)
            answered = [row if isinstance(row, RequestError) else next(results) for row in rows]
            answer = InferResponse(model, answered, Timings(decode_s, batch.queue_s, batch.run_s))
            if explaining is not None:
                answer = await explaining.explained(answer, good, batch.results)
            return self._answer(answer, images, started)

    async def classify_pixels(
        self,
        pixels: NDArray[np.uint8],
        *,
        version: str = "",
        timeout_s: float | None = None,
        explain: ExplainRequest | None = None,
    ) -> InferResponse:
        """Classify images that the client has decoded and resized itself.

        Args:
            pixels: uint8[N,S,S,3], RGB, with the model's S.

        Raises:
            BadRequest: another shape. Otherwise see `classify`.
        """
        self._check_count(len(pixels))
        async with self._answering(version, timeout_s) as (model, started):
            size = model.spec.preprocessing.image_size
            if pixels.shape[1:] != (size, size, 3):
                raise BadRequest(
                    f"the pixels have shape {list(pixels.shape)}, it must be [N, {size}, {size}, 3]"
                )
            explaining = None if explain is None else _Explaining(model, explain)
            batch = await model.batcher.submit(list(pixels))
            answer = InferResponse(
                model, [*batch.results], Timings(0.0, batch.queue_s, batch.run_s)
            )
            if explaining is not None:
                answer = await explaining.explained(answer, list(pixels), batch.results)
            return self._answer(answer, (), started)

    def _answering(self, version: str, timeout_s: float | None) -> _Answering:
        model = self.models.get(self.models.current.name, version)
        return _Answering(model, self._limit(timeout_s))

    def _answer(
        self, answer: InferResponse, images: Sequence[bytes], started: float
    ) -> InferResponse:
        """Count an answer, and tell of it."""
        seconds = time.perf_counter() - started
        if all(isinstance(row, RequestError) for row in answer.rows):
            answer.model.statistics.failed.add(seconds)
        else:
            answer.model.statistics.count_answer(answer.timings, seconds)
        self._on_answer(answer, images)
        return answer

    def _limit(self, timeout_s: float | None) -> float:
        limit = self.limits.request_timeout_s
        return limit if timeout_s is None else min(limit, timeout_s)

    def _check_count(self, count: int) -> None:
        if count > self.limits.max_request_images:
            raise TooLarge(
                f"the request has {count} images, the limit is "
                f"{self.limits.max_request_images} (VGG19_MAX_REQUEST_IMAGES)"
            )

    async def _decode_all(
        self, images: Sequence[bytes], spec: ModelSpec
    ) -> list[NDArray[np.uint8] | RequestError]:
        if len(images) == 1:  # as most requests are; `gather` costs more than the rest of this
            return [await self._decoders.run(self._decode, "", images[0], spec)]
        decoding = [
            self._decoders.run(self._decode, f"image {index}", image, spec)
            for index, image in enumerate(images)
        ]
        return list(await asyncio.gather(*decoding))

    def _decode(self, name: str, image: bytes, spec: ModelSpec) -> NDArray[np.uint8] | RequestError:
        """`name` tells it from others of its request."""
        if len(image) > self.limits.max_image_bytes:
            return TooLarge(
                f"{name or 'the image'} is {len(image) / 1e6:.1f} MB, the limit is "
                f"{self.limits.max_image_bytes / 1e6:.1f} MB (VGG19_MAX_IMAGE_BYTES)"
            )
        prefix = f"{name}: " if name else ""
        try:
            return load_image(
                image,
                spec.preprocessing,
                max_pixels=self.limits.max_image_pixels,
                formats=self.limits.image_formats,
            )
        except UnknownFormat as error:
            return BadImage(f"{prefix}{error} (VGG19_IMAGE_FORMATS)")
        except ImageError as error:
            return BadImage(f"{prefix}{error}")


class _Explaining:
    """A request for heat maps, looked at before any work is done for it.

    Raises:
        BadRequest: the model has none, or no such class.
    """

    def __init__(self, model: ServedModel, explain: ExplainRequest) -> None:
        if model.explainer is None:
            raise BadRequest(
                f"version {model.version} makes no heat maps: VGG19_HEAT_MAPS is off, or the model "
                "was exported before there were any, and 'vgg19 export' makes them"
            )
        labels = model.spec.labels
        if explain.target and explain.target not in labels:
            raise BadRequest(
                f"target is '{explain.target[:50]}', it must be one of the model's {len(labels)} "
                f"labels: {', '.join(labels[:5])}{', ...' if len(labels) > 5 else ''}"
            )
        self._explainer: Explainer = model.explainer
        self._index = labels.index(explain.target) if explain.target else None

    async def explained(
        self,
        answer: InferResponse,
        pixels: Sequence[NDArray[np.uint8]],
        rows: Sequence[ModelOutput],
    ) -> InferResponse:
        """The answer with a map of each image.

        Args:
            pixels: uint8[S,S,3] each. rows: what the model says of them.
        """
        if not pixels:
            return answer
        started = time.perf_counter()
        chosen = (
            int(row.probabilities.argmax()) if self._index is None else self._index for row in rows
        )
        items = [ExplainItem(*pair) for pair in zip(pixels, chosen, strict=True)]
        maps = await self._explainer.explain(items)
        timings = replace(answer.timings, explain_s=time.perf_counter() - started)
        return replace(answer, heat_maps=maps, timings=timings)


class _Answering:
    """Around one request: its model, kept loaded until the answer, and when it began.

    A class, because generators behind three `async with` took a tenth of the loop's time.

    Raises:
        DeadlineExceeded: the time limit passed.
    """

    def __init__(self, model: ServedModel, limit_s: float) -> None:
        self._model = model
        self._limit_s = limit_s
        self._timeout = asyncio.timeout(limit_s)
        self._started = 0.0

    async def __aenter__(self) -> tuple[ServedModel, float]:
        self._started = time.perf_counter()
        self._model.acquire()
        await self._timeout.__aenter__()
        return self._model, self._started

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
            raise DeadlineExceeded(
                f"no answer within {self._limit_s:g} s; try again later"
            ) from None
