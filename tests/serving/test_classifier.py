from __future__ import annotations

import asyncio
import dataclasses
import time
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models.image import load_image
from serving.classifier import Classifier
from serving.errors import BadImage, DeadlineExceeded, TooLarge
from tests.helpers import coloured_pixels, encode, tiny_probabilities, tiny_spec
from tests.serving.conftest import LIMITS, StubModel

PIXELS = np.stack([coloured_pixels(seed) for seed in range(8)])
IMAGES = [encode(pixels) for pixels in PIXELS]


async def test_decodes_batches_and_answers_in_order(
    classifier: Classifier, model: StubModel
) -> None:
    probabilities = await classifier.probabilities(IMAGES)
    np.testing.assert_allclose(probabilities, tiny_probabilities(PIXELS), atol=1e-6)
    assert model.batches == [4, 4]


async def test_one_bad_image_fails_alone(classifier: Classifier, model: StubModel) -> None:
    images = [*IMAGES[:3], b"no image", *IMAGES[3:7]]
    results = await asyncio.gather(
        *(classifier.probabilities([image]) for image in images), return_exceptions=True
    )
    assert isinstance(results.pop(3), BadImage)
    rows = [row for row in results if not isinstance(row, BaseException)]
    np.testing.assert_allclose(np.concatenate(rows), tiny_probabilities(PIXELS[:7]), atol=1e-6)


async def test_the_bad_image_of_a_request_is_named_and_nothing_runs(
    classifier: Classifier, model: StubModel
) -> None:
    with pytest.raises(BadImage, match="^image 2: not an image"):
        await classifier.probabilities([IMAGES[0], IMAGES[1], b"no image"])
    assert model.batches == []


async def test_limits_are_checked_before_decoding(classifier: Classifier) -> None:
    with pytest.raises(TooLarge, match=r"has 9 images, the limit is 8"):
        await classifier.probabilities([b"x"] * 9)
    with pytest.raises(TooLarge, match=r"image 1 is 0\.0 MB, .*VGG19_MAX_IMAGE_BYTES"):
        await classifier.probabilities([b"x", b"x" * 20_001])
    with pytest.raises(BadImage, match=r"40,401 pixels, the limit is 40,000"):
        await classifier.probabilities([encode(np.zeros((201, 201, 3), np.uint8))])


@pytest.mark.parametrize(
    ("service_limit", "client_limit"), [(0.05, None), (10.0, 0.05), (10.0, 0.0)]
)
async def test_the_earlier_deadline_counts(
    classifier: Classifier,
    model: StubModel,
    monkeypatch: pytest.MonkeyPatch,
    service_limit: float,
    client_limit: float | None,
) -> None:
    limits = dataclasses.replace(LIMITS, request_timeout_s=service_limit)
    monkeypatch.setattr(classifier, "limits", limits)

    def slow(*arguments: Any, **options: Any) -> NDArray[np.uint8]:
        time.sleep(0.3)
        return load_image(*arguments, **options)

    monkeypatch.setattr("serving.classifier.load_image", slow)
    with pytest.raises(DeadlineExceeded, match=r"no answer within 0(\.05)? s"):
        await classifier.probabilities([IMAGES[0]], client_limit)
    await asyncio.sleep(0.5)  # the decoding thread has come to its end
    assert model.batches == []  # and its image was dropped before it reached the model


async def test_top_k(classifier: Classifier) -> None:
    row = np.array([0.2, 0.5, 0.3], np.float32)
    top = classifier.top(row, 2)
    assert [(p.label, p.index) for p in top] == [("green", 1), ("red", 2)]
    assert [p.probability for p in top] == pytest.approx([0.5, 0.3])
    assert len(classifier.top(row, 99)) == len(tiny_spec().labels)
    ties = classifier.top(np.array([0.4, 0.2, 0.4], np.float32), 3)
    assert [p.index for p in ties] == [0, 2, 1]
