"""Heat maps: which pixels speak for a class. Of a second graph, whose session is loaded when the
first map is asked for: who never asks for one pays nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from models.bundle.bundle import EXPLAINED_INPUT, HEAT_MAP_OUTPUT, WEIGHTS_FILE, Bundle
from serving.core.batcher import Batcher, BatchFailed
from serving.core.supervisor import Supervisor
from serving.core.waiting import outlasting
from serving.core.workers import Workers
from serving.engine.cuda import card
from serving.engine.graph_check import check_graph
from serving.engine.onnxruntime import inference_session
from serving.engine.options import SessionOptions

# By what name it is logged and counted.
_WORK = "the graph of heat maps"


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

    index: of the class. values: float32[h,w] (of VGG-19 S/32 each) over the model's input, that is,
    over the centre crop; the largest is 1 (all are 0 where nothing speaks for the class).
    """

    index: int
    values: NDArray[np.float32]


MakeMaps = Callable[[Sequence[ExplainItem]], list[HeatMap]]


class Explainer:
    """Makes heat maps, one image after another. All methods belong to one event loop.

    Args:
        load: called in a thread, once; gives what makes the maps, called in another. Never called a
            second time before the first call has ended, whoever has given up meanwhile.
        max_queue: maps that may wait to be made.
        supervisor: told when `load` fails; says how long not to try again.
    """

    def __init__(
        self,
        load: Callable[[], MakeMaps],
        max_queue: int,
        supervisor: Supervisor | None = None,
    ) -> None:
        self._load = load
        self._make: MakeMaps | None = None
        self._supervisor = supervisor or Supervisor()
        self._loading: asyncio.Task[None] | None = None
        self._loading_since = 0.0  # by the loop's clock, in s
        self._try_again_at = 0.0
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
        if self._make is None:
            await outlasting(self._loaded())
        return (await self._batcher.submit(items)).results

    @property
    def running_s(self) -> float:
        """How long the map that is made, or the graph that is loaded, has been under way."""
        if self._loading is not None and not self._loading.done():
            return asyncio.get_running_loop().time() - self._loading_since
        return self._batcher.running_s

    async def close(self, grace_s: float) -> None:
        """See `Batcher.close`. A load that runs isn't waited for."""
        if self._loading is not None:
            self._loading.cancel()
        await self._batcher.close(grace_s)

    def _loaded(self) -> asyncio.Task[None]:
        """The load that runs, or a new one; for all who wait for it."""
        loop = asyncio.get_running_loop()
        if self._loading is None or self._loading.done():
            if loop.time() < self._try_again_at:
                raise BatchFailed("the graph of heat maps couldn't be loaded a moment ago")
            self._loading_since = loop.time()
            self._loading = loop.create_task(self._load_it())
        return self._loading

    async def _load_it(self) -> None:
        worker = Workers(1, "load-explainer")  # of its own: one that hangs takes none from others
        try:
            self._make = await worker.run(self._load)
        except Exception as error:
            pause_s = self._supervisor.failed(_WORK, error)
            self._try_again_at = asyncio.get_running_loop().time() + pause_s
            raise BatchFailed("the graph of heat maps can't be loaded") from error
        else:
            self._supervisor.succeeded(_WORK)
        finally:
            worker.close()

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
