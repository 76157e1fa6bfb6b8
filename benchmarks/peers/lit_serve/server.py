"""LitServe with its batching: decode, one run for the batch, encode."""

# No `from __future__ import annotations`: LitServe gives the annotation to FastAPI as a type.
import os
from collections.abc import Sequence
from typing import Annotated, Any

import litserve as ls
import numpy as np
from fastapi import Body
from numpy.typing import NDArray

from benchmarks.peers.common import decode, load, reply

# The image itself as the body; without an annotation LitServe reads JSON or a form.
Raw = Annotated[bytes, Body(media_type="image/jpeg")]


class Classifier(ls.LitAPI):
    def setup(self, device: str) -> None:
        self.model = load()

    def decode_request(self, request: Raw) -> NDArray[np.uint8]:
        return decode(request)

    def batch(self, inputs: Sequence[NDArray[np.uint8]]) -> Sequence[NDArray[np.uint8]]:
        return inputs

    def predict(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        return self.model.run(images)

    def unbatch(self, output: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        return list(output)

    def encode_response(self, output: NDArray[np.float32]) -> dict[str, Any]:
        return reply(self.model.labels, output)


if __name__ == "__main__":
    api = Classifier(max_batch_size=32, batch_timeout=0.005, api_path="/classify")
    workers = int(os.environ["WORKERS"])
    server = ls.LitServer(api, accelerator="cpu", workers_per_device=workers, timeout=120)
    server.run(
        host="127.0.0.1",
        port=int(os.environ["PORT"]),
        log_level="warning",
        access_log=False,
        generate_client_file=False,
    )
