"""ncnn's graphs, by the files of `models.bundle.ncnn_graph`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from models.bundle.ncnn_graph import NcnnGraph
from serving.engine.batch_sizes import stack


class Ncnn:
    """A graph of ncnn, see `Engine`."""

    def __init__(self, graph: NcnnGraph) -> None:
        self._graph = graph
        self.provider = graph.provider

    def __call__(
        self, images: Sequence[NDArray[np.uint8]], options: ort.RunOptions | None = None
    ) -> list[NDArray[np.float32]]:
        probabilities, features = self._graph(stack(images, len(images)))
        return [probabilities] if features is None else [probabilities, features]
