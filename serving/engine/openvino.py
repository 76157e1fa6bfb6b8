"""ONNX graphs on OpenVINO, by `models.bundle.openvino_graph`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from models.bundle.openvino_graph import OpenVinoGraph
from serving.engine.batch_sizes import stack


class OpenVino:
    """See `Engine`."""

    def __init__(self, graph: OpenVinoGraph) -> None:
        self._graph = graph
        self.provider = graph.provider

    def __call__(
        self, images: Sequence[NDArray[np.uint8]], options: ort.RunOptions | None = None
    ) -> list[NDArray[np.float32]]:
        return self._graph(stack(images, len(images)))
