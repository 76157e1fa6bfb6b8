"""The core of the service: bytes -> decode -> batch -> top-k. Knows neither HTTP nor gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.errors import ImageError
from models.image import load_image
from models.spec import ModelSpec
from serving.batcher import Batcher
from serving.errors import BadImage, DeadlineExceeded, TooLarge

ImageBatcher = Batcher[NDArray[np.uint8], NDArray[np.float32]]


@dataclass(frozen=True)
class Limits:
    """What one request may ask for."""

    max_image_bytes: int
    max_image_pixels: int
    max_request_images: int
    max_request_bytes: int
    request_timeout_s: float


@dataclass(frozen=True)
class Prediction:
    """One label with its column in the output and its probability, 0..1."""

    label: str
    index: int
    probability: float


class Classifier:
    """Answers requests with the one model it was given.

    Args:
        name, version: of the model, named in every reply.
        spec: of the model.
        batcher: runs decoded images.
        decoders: threads that decode; Pillow releases the GIL while it does.
        limits: of a request.
    """

    def __init__(
        self,
        *,
        name: str,
        version: str,
        spec: ModelSpec,
        batcher: ImageBatcher,
        decoders: Executor,
        limits: Limits,
    ) -> None:
        self.name = name
        self.version = version
        self.spec = spec
        self.limits = limits
        self._batcher = batcher
        self._decoders = decoders

    async def probabilities(
        self, images: Sequence[bytes], timeout_s: float | None = None
    ) -> NDArray[np.float32]:
        """Classify encoded images.

        Args:
            images: 1..`limits.max_request_images` encoded images.
            timeout_s: the client's own time limit; the service's applies as well.

        Returns:
            float32[N,C] in the order of `images`.

        Raises:
            BadImage: one of them can't be decoded; the message says which.
            TooLarge: too many images, or too many bytes or pixels in one.
            DeadlineExceeded: the answer took too long.
            Overloaded, ShuttingDown: see `Batcher.submit`.
        """
        self._check_sizes(images)
        limit = self.limits.request_timeout_s
        if timeout_s is not None:
            limit = min(limit, timeout_s)
        try:
            async with asyncio.timeout(limit):
                decoded = await self._decode_all(images)
                return np.stack(await self._batcher.submit(decoded))
        except TimeoutError:
            raise DeadlineExceeded(f"no answer within {limit:g} s; try again later") from None

    def top(self, probabilities: NDArray[np.float32], top_k: int) -> list[Prediction]:
        """The most probable labels of one row, best first; all of them if `top_k` exceeds C."""
        order = np.argsort(-probabilities, kind="stable")[:top_k]
        return [Prediction(self.spec.labels[i], int(i), float(probabilities[i])) for i in order]

    def _check_sizes(self, images: Sequence[bytes]) -> None:
        if len(images) > self.limits.max_request_images:
            raise TooLarge(
                f"the request has {len(images)} images, the limit is "
                f"{self.limits.max_request_images} (VGG19_MAX_REQUEST_IMAGES)"
            )
        for index, image in enumerate(images):
            if len(image) > self.limits.max_image_bytes:
                raise TooLarge(
                    f"image {index} is {len(image) / 1e6:.1f} MB, the limit is "
                    f"{self.limits.max_image_bytes / 1e6:.1f} MB (VGG19_MAX_IMAGE_BYTES)"
                )

    async def _decode_all(self, images: Sequence[bytes]) -> list[NDArray[np.uint8]]:
        loop = asyncio.get_running_loop()
        decoding = [loop.run_in_executor(self._decoders, self._decode, image) for image in images]
        results = await asyncio.gather(*decoding, return_exceptions=True)
        decoded: list[NDArray[np.uint8]] = []
        for index, result in enumerate(results):
            if isinstance(result, ImageError):
                raise BadImage(f"image {index}: {result}")
            if isinstance(result, BaseException):
                raise result
            decoded.append(result)
        return decoded

    def _decode(self, image: bytes) -> NDArray[np.uint8]:
        return load_image(image, self.spec.preprocessing, max_pixels=self.limits.max_image_pixels)
