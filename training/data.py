"""A data set for training: checked, split, fed to the loop."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import Counter, defaultdict
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Full, Queue
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from models.errors import ImageError
from models.imaging.image import load_image
from models.imaging.preprocessing import Preprocessing
from models.machine import cpu_count
from training.augment import ImageAugmentation
from training.engine import Batch
from training.reporter import Reporter
from training.sampling import Draw
from training.sources import SPLITS, DataError, ImageFile, Split, data_root, find_images

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


@dataclass(frozen=True)
class Sample:
    """One readable image. `sha256` is that of the file's bytes."""

    path: Path
    label: str
    split: Split
    sha256: str
    group: str | None = None


@dataclass(frozen=True)
class SkippedFile:
    path: Path
    label: str
    reason: str


@dataclass(frozen=True)
class ImageData:
    """A checked and split data set. `labels` are sorted; their order is the class index."""

    root: Path
    labels: tuple[str, ...]
    samples: tuple[Sample, ...]
    skipped: tuple[SkippedFile, ...]

    def split(self, name: Split) -> list[Sample]:
        return [sample for sample in self.samples if sample.split == name]

    @property
    def held_out(self) -> Split:
        """The split that judges the model: test, or val where there is no test."""
        return "test" if self.split("test") else "val"

    def fingerprint(self) -> str:
        """SHA-256 over which content has which label in which split; independent of file names."""
        lines = sorted(f"{s.split}\t{s.label}\t{s.sha256}\n" for s in self.samples)
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def counts(self) -> dict[str, dict[str, int]]:
        """Images by split and label."""
        counts: dict[str, dict[str, int]] = {s: dict.fromkeys(self.labels, 0) for s in SPLITS}
        for sample in self.samples:
            counts[sample.split][sample.label] += 1
        return counts

    def describe(self) -> dict[str, Any]:
        """What `data.json` in the run directory holds."""
        return {
            "root": str(self.root),
            "fingerprint": self.fingerprint(),
            "labels": list(self.labels),
            "counts": self.counts(),
            "held_out": self.held_out,
            "skipped": [
                {"path": str(f.path), "label": f.label, "reason": f.reason} for f in self.skipped
            ],
            "files": [
                {
                    "path": os.path.relpath(s.path, self.root),
                    "label": s.label,
                    "split": s.split,
                    "sha256": s.sha256,
                }
                for s in self.samples
            ],
        }


def load_images(
    data: Path,
    preprocessing: Preprocessing,
    *,
    label_column: str,
    image_column: str | None,
    val_fraction: float,
    test_fraction: float,
    max_bad_fraction: float,
    seed: int,
    reporter: Reporter,
) -> ImageData:
    """Find, decode once (to find bad files before training does) and split labelled images.

    Splits that the data names are kept; a missing val is taken from train. Files that are no
    images are named in warnings and left out.

    Args:
        data: see `training.sources.find_images`.

    Raises:
        DataError: no images, fewer than two classes, an empty class, or more than
            `max_bad_fraction` of a class unreadable.
    """
    files = find_images(data, label_column=label_column, image_column=image_column)
    labels = _check_classes(files, data)
    samples, skipped = check_files(files, preprocessing, reporter)
    check_bad_fraction(files, skipped, max_bad_fraction)
    if all(file.split is None for file in files):
        samples = split_off(samples, "test", test_fraction, seed)
        val_fraction /= 1 - test_fraction  # of what is left in train
    if not any(sample.split == "val" for sample in samples):
        samples = split_off(samples, "val", val_fraction, seed)
    images = ImageData(data_root(data), labels, tuple(samples), tuple(skipped))
    _check_splits(images)
    return images


def load_labelled_images(
    data: Path, labels: Sequence[str], preprocessing: Preprocessing, reporter: Reporter
) -> ImageData:
    """All images of `data` as one test split, for a model with these labels.

    Raises:
        DataError: no images, or a class that the model doesn't know.
    """
    files = [replace(file, split="test") for file in find_images(data)]
    unknown = sorted({file.label for file in files} - set(labels))
    if unknown:
        raise DataError(
            f"class '{unknown[0]}' in {data} is none of the model's: {', '.join(labels)}"
        )
    samples, skipped = check_files(files, preprocessing, reporter)
    if not samples:
        raise DataError(f"{data} holds no readable image")
    return ImageData(data_root(data), tuple(labels), tuple(samples), tuple(skipped))


def check_files(
    files: Sequence[ImageFile], preprocessing: Preprocessing, reporter: Reporter
) -> tuple[list[Sample], list[SkippedFile]]:
    """Hash and decode every file; those that can't be are named in warnings."""
    samples: list[Sample] = []
    skipped: list[SkippedFile] = []
    with (
        reporter.progress("checking images", len(files)) as advance,
        ThreadPoolExecutor(cpu_count()) as pool,
    ):
        for result in pool.map(lambda file: _check_file(file, preprocessing), files):
            if isinstance(result, Sample):
                samples.append(result)
            else:
                skipped.append(result)
            advance(1, "")
    if skipped:
        reporter.warn(f"{len(skipped)} of {len(files)} files are no images and are skipped:")
    for file in skipped:
        reporter.warn(f"  {file.path}: {file.reason}")
    return samples, skipped


def _check_file(file: ImageFile, preprocessing: Preprocessing) -> Sample | SkippedFile:
    try:
        content = file.path.read_bytes()
        load_image(content, preprocessing)
    except OSError as error:
        return SkippedFile(file.path, file.label, f"can't be read: {error.strerror}")
    except ImageError as error:
        return SkippedFile(file.path, file.label, str(error))
    digest = hashlib.sha256(content).hexdigest()
    return Sample(file.path, file.label, file.split or "train", digest, file.group)


def _check_classes(files: Sequence[ImageFile], data: Path) -> tuple[str, ...]:
    labels = tuple(sorted({file.label for file in files if file.split in (None, "train")}))
    if len(labels) < 2:
        found = f"one class ('{labels[0]}')" if labels else "no class"
        raise DataError(f"{data} holds {found} to train on, at least 2 are needed")
    unknown = sorted({file.label for file in files} - set(labels))
    if unknown:
        raise DataError(
            f"class '{unknown[0]}' in {data} has no training images; add some or remove it"
        )
    return labels


def check_bad_fraction(
    files: Sequence[ImageFile], skipped: Sequence[SkippedFile], max_bad_fraction: float
) -> None:
    totals = Counter(file.label for file in files)
    bad: dict[str, list[SkippedFile]] = defaultdict(list)
    for file in skipped:
        bad[file.label].append(file)
    for label, bad_files in bad.items():
        fraction = len(bad_files) / totals[label]
        if fraction > max_bad_fraction:
            first = bad_files[0]
            raise DataError(
                f"{len(bad_files)} of {totals[label]} files of class '{label}' are no images "
                f"({fraction:.0%}, --max-bad-fraction is {max_bad_fraction:.0%}), the first is "
                f"{first.path}: {first.reason}"
            )


def split_off(samples: Sequence[Sample], split: Split, fraction: float, seed: int) -> list[Sample]:
    """Move a fraction of each class from train to `split`, chosen by content, not by name.

    What moves together is a group, or where there is none, the copies of one image. They are
    ranked by SHA-256 of seed and content (or group), so the same images split the same way
    wherever they lie. Each class keeps at least one training image and, if it can, gives one.
    """
    units: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        if sample.split == "train":
            units[unit_of(sample)].append(sample)
    counts = Counter(sample.label for unit in units.values() for sample in unit)
    wanted = {
        label: min(max(round(count * fraction), 1), count - 1) if fraction > 0 else 0
        for label, count in counts.items()
    }
    ranked = sorted(units, key=lambda unit: _rank(unit, split, seed))
    moved: set[str] = set()
    taken: Counter[str] = Counter()
    for limit in (wanted, {label: counts[label] - 1 for label in counts}):
        for unit in ranked:
            sizes = Counter(sample.label for sample in units[unit])
            needed = any(taken[label] < wanted[label] for label in sizes)
            if limit is not wanted:  # second round: a class that got nothing takes a large group
                needed = any(taken[label] == 0 < wanted[label] for label in sizes)
            fits = all(taken[label] + size <= limit[label] for label, size in sizes.items())
            if unit not in moved and needed and fits:
                moved.add(unit)
                taken.update(sizes)
    return [
        replace(sample, split=split)
        if sample.split == "train" and unit_of(sample) in moved
        else sample
        for sample in samples
    ]


def unit_of(sample: Sample) -> str:
    return f"group {sample.group}" if sample.group is not None else sample.sha256


def _rank(unit: str, split: Split, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{split}:{unit}".encode()).hexdigest()


def _check_splits(data: ImageData) -> None:
    for label, count in data.counts()["train"].items():
        if count == 0:
            raise DataError(
                f"class '{label}' in {data.root} has no readable image to train on; add some"
            )
    if not data.split("val"):
        raise DataError(
            f"{data.root} has too few images to set some aside for validation: "
            f"{len(data.samples)} in {len(data.labels)} classes, at least 3 in one class are needed"
        )


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
        path = self.samples[index].path
        try:
            # A copy: the array is a read-only view of Pillow's buffer, which torch warns about.
            return torch.from_numpy(load_image(path.read_bytes(), self._preprocessing).copy())
        except (OSError, ImageError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise LostImageError(f"{path} can no longer be read ({reason})") from None

    def __getitem__(self, draw: Draw) -> tuple[Tensor, int, int, float]:
        pixels = self.pixels(draw.image)
        if self._augmentation is not None:
            pixels = self._augmentation(pixels, draw.number)
        return pixels, self.targets[draw.image], draw.image, draw.weight


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
