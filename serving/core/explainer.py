"""Heat maps: which pixels speak for a class. Of a second graph, whose session is loaded when the
first map is asked for: who never asks for one pays nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from models.bundle import EXPLAINED_INPUT, HEAT_MAP_OUTPUT, WEIGHTS_FILE, Bundle
from serving.core.batcher import Batcher, BatchFailed
from serving.engine.cuda import card
from serving.engine.graph_check import check_graph
from serving.engine.onnxruntime import inference_session
from serving.engine.options import SessionOptions

logger = logging.getLogger(__name__)

# VGG-19 halves its input five times.
_STRIDE = 32


@dataclass(frozen=True)
class ExplainRequest:
    """For heat maps, each of `target` (a label), or without one of an image's most probable one."""

    target: str = ""


@dataclass(frozen=True, slots=True)
class ExplainItem:
    """One map to be made. pixels: uint8[S,S,3], RGB. index: of the class."""

    pixels: NDArray[np.uint8]
    index: int


@dataclass(frozen=True, slots=True)
class HeatMap:
    """How much each place speaks for a class.

    index: of the class. values: float32[S/32,S/32] over the model's input, that is, over the centre
    crop; the largest is 1 (all are 0 where nothing speaks for the class).
    """

    index: int
    values: NDArray[np.float32]


MakeMaps = Callable[[Sequence[ExplainItem]], list[HeatMap]]


def heat_map_side(image_size: int) -> int:
    """Values across a map of a model whose input is that many pixels across."""
    return image_size // _STRIDE


class Explainer:
    """Makes heat maps, one image after another. All methods belong to one event loop.

    Args:
        load: called in a thread, once; gives what makes the maps, called in another.
        max_queue: maps that may wait to be made.
    """

    def __init__(self, load: Callable[[], MakeMaps], max_queue: int) -> None:
        self._load = load
        self._make: MakeMaps | None = None
        self._loading = asyncio.Lock()
        # One at a time: people look at them one by one, and a GPU sees one batch size only.
        self._batcher: Batcher[ExplainItem, HeatMap] = Batcher(
            self._run, max_batch_size=1, max_queue=max_queue
        )

    async def explain(self, items: Sequence[ExplainItem]) -> list[HeatMap]:
        """A map for each, in their order.

        Raises:
            Overloaded, ShuttingDown, BatchFailed: see `Batcher.submit`; BatchFailed as well where
                the second graph can't be loaded.
        """
        self._batcher.check_room(len(items))
        async with self._loading:
            if self._make is None:
                self._make = await asyncio.to_thread(self._loaded)
        return (await self._batcher.submit(items)).results

    async def close(self, grace_s: float) -> None:
        """See `Batcher.close`."""
        await self._batcher.close(grace_s)

    def _loaded(self) -> MakeMaps:
        try:
            return self._load()
        except Exception as error:
            logger.exception("the graph of heat maps can't be loaded")
            raise BatchFailed("the graph of heat maps can't be loaded") from error

    def _run(self, items: Sequence[ExplainItem]) -> list[HeatMap]:
        assert self._make is not None, "`explain` loads it"
        return self._make(items)


def load_explainer(bundle: Bundle, options: SessionOptions) -> MakeMaps:
    """Load the graph of a bundle's heat maps; takes a second.

    Args:
        bundle: which has one, and whose files have been checked (`Bundle.check_explainer`).

    Raises:
        BundleError: the graph does what it shouldn't.
        SessionError: ONNX Runtime can't load it.
    """
    path = bundle.explain_path
    assert path is not None, "the bundle has no heat maps"
    check_graph(path, WEIGHTS_FILE)
    session = inference_session(path, options, saves_memory=True)
    image_input = bundle.spec.input_name

    def make(items: Sequence[ExplainItem]) -> list[HeatMap]:
        return [_map(session, image_input, item) for item in items]

    return make


def _map(session: ort.InferenceSession, image_input: str, item: ExplainItem) -> HeatMap:
    feed = {image_input: item.pixels[None], EXPLAINED_INPUT: np.array([item.index])}
    with card.using():
        (maps,) = session.run([HEAT_MAP_OUTPUT], feed)
    return HeatMap(item.index, maps[0])
