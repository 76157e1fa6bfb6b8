"""A classifier over a stub model, for the tests of what lies around it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray

from serving.batcher import Batcher
from serving.classifier import Classifier, ImageBatcher, Limits
from tests.helpers import tiny_probabilities, tiny_spec

LIMITS = Limits(
    max_image_bytes=20_000,
    max_image_pixels=40_000,
    max_request_images=8,
    max_request_bytes=100_000,
    request_timeout_s=10.0,
)


class StubModel:
    """Answers as `tiny_probabilities` does, and can be told to fail."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.error: Exception | None = None

    def run(self, images: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        self.batches.append(len(images))
        if self.error is not None:
            raise self.error
        return list(tiny_probabilities(np.stack(images)))


@pytest.fixture
def model() -> StubModel:
    return StubModel()


@pytest.fixture
async def classifier(model: StubModel) -> AsyncIterator[Classifier]:
    batcher: ImageBatcher = Batcher(model.run, max_batch_size=4, max_queue=16)
    with ThreadPoolExecutor(2) as decoders:
        yield Classifier(
            name="vgg19",
            version="v1",
            spec=tiny_spec(),
            batcher=batcher,
            decoders=decoders,
            limits=LIMITS,
        )
        await batcher.close(grace_s=5)
