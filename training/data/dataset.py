"""A split's images as tensors, and batches of them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from queue import Full, Queue
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from models.errors import ImageError
from models.imaging.image import Decoded, decode_image, load_image, read_image_file
from models.imaging.preprocessing import Preprocessing
from models.machine import cpu_count
from training.data.augment import ImageAugmentation
from training.data.batch import Batch
from training.data.checks import Sample
from training.data.sampling import Draw
from training.data.sources import DataError

R = TypeVar("R")

# A photograph of 500 x 400 takes 2.9 ms (one core, measured), so eight decode 2,700 a second. The
# batches that wait ahead even out slow files.
_MAX_WORKERS = 8
_PREFETCH = 4
_LOOK_S = 0.1  # how often a thread looks whether it is still wanted


class LostImageError(DataError):
    """An image that was there when the data was checked can't be read any more."""

    @property
    def reason(self) -> str:
        """In one line: from a loader process PyTorch brings it with a traceback before it."""
        return str(self).strip().splitlines()[-1].rpartition(f"{type(self).__name__}: ")[2]


class ImageDataset(Dataset[tuple[Tensor, int, int, float]]):
    """Yields (uint8[S,S,3] RGB, class index, index, weight) for a `Draw`."""

    def __init__(
        self,
        samples: Sequence[Sample],
        labels: Sequence[str],
        preprocessing: Preprocessing,
        augmentation: ImageAugmentation | None = None,
    ) -> None:
        self.samples = list(samples)
        index: Mapping[str, int] = {label: i for i, label in enumerate(labels)}
        self.targets = [index[sample.label] for sample in self.samples]
        self._preprocessing = preprocessing
        self._augmentation = augmentation

    def __len__(self) -> int:
        return len(self.samples)

    def pixels(self, index: int) -> Tensor:
        """uint8[S,S,3], not augmented.

        Raises:
            LostImageError: the file was readable when training began, and is no longer.
        """
        return self._read(index, self._plain)

    def decoded(self, index: int) -> Decoded:
        """As `pixels`, with what the file is.

        Raises:
            LostImageError: as `pixels`.
        """
        return self._read(index, lambda content: decode_image(content, self._preprocessing))

    def _plain(self, content: bytes) -> Tensor:
        # A copy: the array is a read-only view of Pillow's buffer, which torch warns about.
        return torch.from_numpy(load_image(content, self._preprocessing).copy())

    def _read(self, index: int, decode: Callable[[bytes], R]) -> R:
        path = self.samples[index].path
        try:
            return decode(read_image_file(path))
        except ImageError as error:
            cause = str(error).removeprefix("can't be read: ")
            raise LostImageError(f"{path} can no longer be read ({cause})") from None

    def __getitem__(self, draw: Draw) -> tuple[Tensor, int, int, float]:
        decode = self._plain
        if self._augmentation is not None:
            decode = partial(self._augmentation, augmentation_seed=draw.augmentation_seed)
        return self._read(draw.image, decode), self.targets[draw.image], draw.image, draw.weight


def make_loader(
    dataset: ImageDataset,
    batches: Sampler[list[Draw]],
    device: torch.device,
    num_workers: int | None,
) -> Iterable[Batch]:
    """The given batches, loaded."""
    if num_workers is None:
        num_workers = default_workers(device, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=collate,
        # Its own, or each loader would draw from the generator that dropout and mixing draw from,
        # and a resumed run has one more loader than the run it continues.
        generator=torch.Generator(),
        num_workers=num_workers,
        prefetch_factor=_PREFETCH if num_workers else None,
        pin_memory=device.type == "cuda",
    )


def read_ahead(batches: Iterator[Batch]) -> Generator[Batch, None, None]:
    """The batches, read by a thread up to `_PREFETCH` ahead.

    What it raises is raised here. It ends when the iterator is closed or forgotten.
    """
    ready: Queue[Batch | BaseException | None] = Queue(_PREFETCH)
    stop = threading.Event()

    def put(item: Batch | BaseException | None) -> bool:
        while not stop.is_set():
            with suppress(Full):
                ready.put(item, timeout=_LOOK_S)
                return True
        return False

    def read() -> None:
        try:
            if all(put(batch) for batch in batches):
                put(None)
        except BaseException as error:  # whatever it is, it belongs to who asks for batches
            put(error)

    thread = threading.Thread(target=read, name="read-ahead", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()


def default_workers(device: torch.device, processes: int) -> int:
    """Loader processes of one training process.

    On the CPU none: decoding is 1-2% of a VGG-19 step, and processes would take the cores that
    compute. On GPUs the machine's cores, shared out among the `processes` (one a GPU) on it.
    """
    if device.type != "cuda":
        return 0
    return max(1, min(_MAX_WORKERS, cpu_count() // processes))


def collate(items: Sequence[tuple[Tensor, int, int, float]]) -> Batch:
    images, targets, indices, weights = zip(*items, strict=True)
    return Batch(
        torch.stack(images), torch.tensor(targets), torch.tensor(indices), torch.tensor(weights)
    )
