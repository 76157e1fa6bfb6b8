"""mosec: HTTP and batching in Rust; processes of Python that decode, and one with the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mosec import Server, Worker
from numpy.typing import NDArray

from benchmarks.peers.common import decode, load, reply

_DECODERS = 2  # as many as cores


class Decode(Worker):
    def deserialize(self, data: bytes) -> bytes:
        return data

    def forward(self, data: bytes) -> NDArray[np.uint8]:
        return decode(data)


class Classify(Worker):
    def __init__(self) -> None:
        super().__init__()
        self.model = load()

    def forward(self, data: Sequence[NDArray[np.uint8]]) -> list[dict[str, Any]]:
        return [reply(self.model.labels, row) for row in self.model.run(data)]


if __name__ == "__main__":
    server = Server()
    server.append_worker(Decode, num=_DECODERS, timeout=120, route="/classify")
    server.append_worker(
        Classify, max_batch_size=32, max_wait_time=5, timeout=120, route="/classify"
    )
    server.run()
