from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from models.imaging.image import Decoded, decode_image
from serving.core.dataplane import DataPlane
from serving.core.errors import BadImage, BadRequest, DeadlineExceeded, TooLarge, UnknownModel
from serving.core.explainer import Explainer, ExplainItem, ExplainRequest, HeatMap
from serving.core.pool import ModelPool
from serving.core.requests import InferRequest, RequestedOutput, top
from serving.engine.session import ModelOutput
from testing.bundles import tiny_probabilities, tiny_spec
from testing.images import coloured_pixels, encode
from testing.waiting import HANG_S
from tests.serving.conftest import LIMITS, StubModel

PIXELS = np.stack([coloured_pixels(seed) for seed in range(8)])
IMAGES = [encode(pixels) for pixels in PIXELS]


async def test_decodes_batches_and_answers_in_order(
    classifier: DataPlane, model: StubModel
) -> None:
    answer = await classifier.infer(InferRequest(IMAGES))
    assert answer.model is classifier.models.current
    np.testing.assert_allclose(answer.probabilities, tiny_probabilities(PIXELS), atol=1e-6)
    assert model.batches == [4, 4]


async def test_one_bad_image_of_32_fails_alone(classifier: DataPlane) -> None:
    """As requests of their own, and within requests."""
    images = [IMAGES[i % 8] for i in range(32)]
    images[17] = b"no image"
    answers = await asyncio.gather(
        *(classifier.infer(InferRequest([image])) for image in images[:16])
    )
    rows = [row for answer in answers for row in answer.rows]
    for first in (16, 24):
        rows += (await classifier.infer(InferRequest(images[first : first + 8]))).rows
    bad = rows.pop(17)
    assert isinstance(bad, BadImage)
    assert str(bad).startswith("image 1: not an image")
    expected = tiny_probabilities(PIXELS[[i % 8 for i in range(32) if i != 17]])
    outputs = [row.probabilities for row in rows if isinstance(row, ModelOutput)]
    np.testing.assert_allclose(np.stack(outputs), expected, atol=1e-6)


async def test_where_all_are_bad_nothing_runs(classifier: DataPlane, model: StubModel) -> None:
    answer = await classifier.infer(InferRequest([b"no image", b""]))
    with pytest.raises(BadImage, match="^image 0: not an image"):
        _ = answer.probabilities
    assert model.batches == []


async def test_all_or_nothing(classifier: DataPlane, model: StubModel) -> None:
    """As the v2 protocols have it: nothing runs, and the statistics count a failure."""
    statistics = classifier.models.current.statistics
    with pytest.raises(BadImage, match="^image 1: not an image"):
        await classifier.infer(InferRequest([IMAGES[0], b"no", b""], all_or_nothing=True))
    assert model.batches == []
    assert (statistics.failed.count, statistics.succeeded.count) == (1, 0)
    await classifier.infer(InferRequest(IMAGES[:2], all_or_nothing=True))
    assert (statistics.failed.count, statistics.succeeded.count) == (1, 1)


async def test_outputs_that_a_model_lacks_are_told_before_it_runs(
    models: ModelPool, classifier: DataPlane, model: StubModel
) -> None:
    models.current.has_distance = False
    outputs = [RequestedOutput("label"), RequestedOutput("distance")]
    with pytest.raises(BadRequest, match="version v1 has no 'distance': it was trained before"):
        await classifier.infer(InferRequest(IMAGES, outputs=outputs))
    assert model.batches == []


async def test_a_deadline_counts_from_the_head_of_the_request(
    classifier: DataPlane, model: StubModel
) -> None:
    """What its body took is gone."""
    deadline = LIMITS.deadline(0.2)
    await asyncio.sleep(0.25)
    with pytest.raises(DeadlineExceeded, match=r"no answer within 0\.2 s"):
        await classifier.infer(InferRequest(IMAGES, deadline=deadline))
    assert model.batches == []


async def test_what_is_done_off_the_loop_has_the_same_deadline() -> None:
    deadline = LIMITS.deadline(0.05)
    with pytest.raises(DeadlineExceeded, match=r"no answer within 0\.05 s"):
        await deadline.off_loop(time.sleep, 0.5)


async def test_heat_maps_have_the_same_deadline(models: ModelPool, classifier: DataPlane) -> None:
    may_end = threading.Event()

    def make(items: Sequence[ExplainItem]) -> list[HeatMap]:
        assert may_end.wait(HANG_S)
        return []

    models.current.explainer = Explainer(lambda: make, max_queue=8)
    request = InferRequest(IMAGES[:1], explain=[ExplainRequest()], deadline=LIMITS.deadline(0.3))
    try:
        with pytest.raises(DeadlineExceeded, match=r"no answer within 0\.3 s"):
            await classifier.infer(request)
        assert models.current.statistics.failed.count == 1
    finally:
        may_end.set()
        await models.current.explainer.close(1)


async def test_pixels_are_taken_as_they_are(classifier: DataPlane) -> None:
    answer = await classifier.infer(InferRequest(pixels=PIXELS))
    np.testing.assert_allclose(answer.probabilities, tiny_probabilities(PIXELS), atol=1e-6)
    with pytest.raises(BadRequest, match=r"shape \[8, 31, 32, 3\], it must be \[N, 32, 32, 3\]"):
        await classifier.infer(InferRequest(pixels=PIXELS[:, 1:]))
    with pytest.raises(TooLarge, match=r"has 9 images, the limit is 8"):
        await classifier.infer(InferRequest(pixels=np.concatenate([PIXELS, PIXELS[:1]])))


async def test_versions_are_addressed(classifier: DataPlane) -> None:
    with pytest.raises(UnknownModel, match="version 'v2' is not served here; 'vgg19' is"):
        await classifier.infer(InferRequest(IMAGES[:1], version="v2"))
    await classifier.models.load("v2")
    assert (await classifier.infer(InferRequest(IMAGES[:1], version="v2"))).model.version == "v2"
    assert (await classifier.infer(InferRequest(IMAGES[:1]))).model.version == "v1"


async def test_limits_are_checked_before_decoding(classifier: DataPlane) -> None:
    with pytest.raises(TooLarge, match=r"has 9 images, the limit is 8"):
        await classifier.infer(InferRequest([b"x"] * 9))
    large = await classifier.infer(
        InferRequest([b"x" * 20_001, encode(np.zeros((201, 201, 3), np.uint8))])
    )
    bytes_, pixels = large.rows
    assert isinstance(bytes_, TooLarge)
    assert "image 0 is 0.0 MB, the limit is 0.0 MB (VGG19_MAX_IMAGE_BYTES)" in str(bytes_)
    assert isinstance(pixels, BadImage)
    assert "40,401 pixels, the limit is 40,000" in str(pixels)


@pytest.mark.parametrize(
    ("service_limit", "client_limit"), [(0.05, None), (10.0, 0.05), (10.0, 0.0)]
)
async def test_the_earlier_deadline_counts(
    classifier: DataPlane,
    model: StubModel,
    monkeypatch: pytest.MonkeyPatch,
    service_limit: float,
    client_limit: float | None,
) -> None:
    limits = dataclasses.replace(LIMITS, request_timeout_s=service_limit)
    monkeypatch.setattr(classifier, "limits", limits)

    def slow(*arguments: Any, **options: Any) -> Decoded:
        time.sleep(0.3)
        return decode_image(*arguments, **options)

    monkeypatch.setattr("serving.core.dataplane.decode_image", slow)
    with pytest.raises(DeadlineExceeded, match=r"no answer within 0(\.05)? s"):
        await classifier.infer(InferRequest([IMAGES[0]], deadline=limits.deadline(client_limit)))
    await asyncio.sleep(0.5)  # the decoding thread has come to its end
    assert model.batches == []  # and its image was dropped before it reached the model


def test_top_k_and_threshold() -> None:
    labels = tiny_spec().labels
    row = np.array([0.2, 0.5, 0.3], np.float32)
    best = top(labels, row, 2)
    assert [(p.label, p.index) for p in best] == [("green", 1), ("red", 2)]
    assert [p.probability for p in best] == pytest.approx([0.5, 0.3])
    assert len(top(labels, row, 99)) == len(labels)
    ties = top(labels, np.array([0.4, 0.2, 0.4], np.float32), 3)
    assert [p.index for p in ties] == [0, 2, 1]
    assert [p.index for p in top(labels, row, 3, threshold=0.25)] == [1, 2]
    assert top(labels, row, 3, threshold=0.6) == []
