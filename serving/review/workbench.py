"""What the service can do with the labels of a review: lay them beside the captured images. It
trains nothing; the page names the commands that do."""

from __future__ import annotations

import asyncio
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.captured import LABELS_FILE, lay_labels
from models.imaging.image import load_image
from models.locations import without_credentials
from review.desk import NotNow
from review.pictures import explained
from review.pool import Item
from review.tables import captured_table
from review.workbench import Elsewhere, Labelled, LabelWeight
from serving.core.batcher import BatchFailed
from serving.core.errors import RequestError
from serving.core.explainer import ExplainItem, HeatMap
from serving.core.pool import ModelPool
from serving.core.served_model import ServedModel

LAY = "lay"
# The first map loads a second graph.
_HEAT_MAP_S = 60.0


class ServiceWorkbench:
    """See `review.workbench.Workbench`.

    Args:
        url: where the images are captured.
        folder: of the review; a lock in it has one worker at a time write the labels.
        loop: to which the models belong.
    """

    exports = ("labels",)

    def __init__(
        self, url: str, folder: Path, models: ModelPool, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._url = url
        self._lock = folder / ".lay.lock"
        self._models = models
        self._loop = loop
        self._last: dict[str, Any] | None = None
        # The run knows the size of the images, and the labelled ones; without its weights, the
        # challenger would be a head on those that the run began with.
        review = "vgg19 review --config RUN/config.yaml --weights RUN/checkpoints/best.safetensors"
        self.elsewhere = (
            Elsewhere("Retrain and redeploy", "vgg19 redeploy --config redeploy.yaml"),
            Elsewhere(
                "Make a challenger, or export; RUN is the served model's run",
                f"{review} --capture {without_credentials(url)}",
            ),
        )

    def heat_map(self, item: Item, label: str, head: LabelWeight | None) -> NDArray[np.uint8]:
        """The served model's, whatever the head says."""
        model = self._models.current
        if model.explainer is None:
            raise NotNow(
                "there are no heat maps: they are off (VGG19_HEAT_MAPS), or the model was exported "
                "without them; 'vgg19 export' makes them"
            )
        if label not in model.spec.labels:
            raise NotNow(f"version {model.version}, which serves, doesn't know '{label[:50]}'")
        pixels = load_image(item.path, model.spec.preprocessing)
        asked = ExplainItem(pixels, model.spec.labels.index(label))
        making = asyncio.run_coroutine_threadsafe(_made(model, asked), self._loop)
        try:
            return explained(pixels, making.result(_HEAT_MAP_S).values, label)
        except TimeoutError:
            making.cancel()
            raise NotNow(f"the heat map wasn't there within {_HEAT_MAP_S:g} s") from None
        except RequestError as error:
            raise NotNow(str(error)) from None
        except BatchFailed:
            raise NotNow("the heat map can't be made; the service's log says why") from None

    def labels_table(self, labelled: Labelled) -> bytes:
        return captured_table(labelled)

    def jobs(self) -> dict[str, Any]:
        return {"names": [LAY], "last": self._last}

    def start(self, job: str, labelled: Labelled) -> None:
        """Lay the labels beside the captured images; it is done on return.

        Raises:
            NotNow: there is no such job. CaptureError: the location can't be written.
        """
        if job != LAY:
            raise NotNow(f"there is no job '{job[:50]}'; there is {LAY}")
        labels = {item.stem: label for item, label in labelled if item.stem is not None}
        with self._alone():
            count = lay_labels(self._url, labels)
        words = f"{count} images have a label in {without_credentials(self._url)}/{LABELS_FILE}"
        self._last = {"name": LAY, "state": "done", "step": "", "lines": [words]}

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """The table is read and written again: of two workers, one would undo the other's."""
        with self._lock.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


async def _made(model: ServedModel, asked: ExplainItem) -> HeatMap:
    assert model.explainer is not None
    model.acquire()
    try:
        (heat_map,) = await model.explainer.explain([asked])
    finally:
        model.release()
    return heat_map
