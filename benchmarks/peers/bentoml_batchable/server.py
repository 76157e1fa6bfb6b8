"""BentoML's own batching: a batchable API that takes a list of Pillow images."""

# No `from __future__ import annotations`: BentoML reads the annotations as types.
import os
from typing import Any

import bentoml
from PIL.Image import Image

from benchmarks.peers.common import load, prepare, reply


@bentoml.service(
    workers=int(os.environ["WORKERS"]),
    traffic={"timeout": 120},
    logging={"access": {"enabled": False}},
)
class Classifier:
    def __init__(self) -> None:
        self.model = load()

    # The latency is a limit (later answers are 503), not a wait: BentoML's default.
    @bentoml.api(batchable=True, max_batch_size=32, max_latency_ms=60_000)
    def classify(self, images: list[Image]) -> list[dict[str, Any]]:
        probabilities = self.model.run([prepare(image) for image in images])
        return [reply(self.model.labels, row) for row in probabilities]
