"""TorchServe: a handler that takes the images of a batch and runs them at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ts.torch_handler.base_handler import BaseHandler

from benchmarks.peers.common import decode, load, reply


class Classifier(BaseHandler):
    def initialize(self, context: Any) -> None:
        self.context = context
        self.manifest = context.manifest
        self.model = load()
        self.initialized = True

    def preprocess(self, data: Sequence[Mapping[str, Any]]) -> list[NDArray[np.uint8]]:
        return [decode(bytes(request["body"])) for request in data]

    def inference(self, data: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        return self.model.run(data)

    def postprocess(self, data: NDArray[np.float32]) -> list[dict[str, Any]]:
        return [reply(self.model.labels, row) for row in data]
