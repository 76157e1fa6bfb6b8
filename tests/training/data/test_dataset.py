from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from models.imaging.image import load_image
from testing.images import COLOURS, write_image_folder
from tests.training.data.test_image_data import RULE, load
from training.data.augment import ImageAugmentation
from training.data.batch import Batch
from training.data.dataset import ImageDataset, LostImageError, make_loader, read_ahead
from training.data.sampling import Draw, EpochBatches, epoch_order


class TestLoader:
    @pytest.fixture
    def dataset(self, tmp_path: Path) -> ImageDataset:
        data = load(write_image_folder(tmp_path, {"blue": 6, "green": 6, "red": 6}))
        return ImageDataset(data.samples, data.labels, RULE)

    def test_items(self, dataset: ImageDataset) -> None:
        pixels, target, index, weight = dataset[Draw(7, 99)]
        sample = dataset.samples[7]
        assert COLOURS[target] == sample.label
        assert (index, weight) == (7, 1.0)
        assert (pixels.numpy() == load_image(sample.path, RULE)).all()
        assert (pixels.dtype, tuple(pixels.shape)) == (torch.uint8, (32, 32, 3))

    def test_batches(self, dataset: ImageDataset) -> None:
        batches = EpochBatches([3, 1, 2], batch_size=2)
        first, second = make_loader(dataset, batches, torch.device("cpu"), num_workers=None)
        assert first.indices.tolist() == [3, 1]
        assert second.indices.tolist() == [2]
        assert first.targets.tolist() == [dataset.targets[3], dataset.targets[1]]
        assert first.inputs.dtype == torch.uint8
        assert first.weights.tolist() == [1.0, 1.0]

    # PyTorch warns of two where there is one core.
    @pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes")
    def test_loader_processes_change_nothing(self, dataset: ImageDataset) -> None:
        augmented = ImageDataset(
            dataset.samples,
            COLOURS,
            RULE,
            ImageAugmentation(
                "trivial", RULE, crop_scale=0.5, horizontal_flip=True, random_erasing=0.5, seed=1
            ),
        )
        order = epoch_order(18, seed=0, epoch=1)
        plain, parallel = (
            list(
                make_loader(
                    augmented, EpochBatches(order, 4), torch.device("cpu"), num_workers=workers
                )
            )
            for workers in (0, 2)
        )
        for a, b in zip(plain, parallel, strict=True):
            assert torch.equal(a.inputs, b.inputs)
            assert torch.equal(a.indices, b.indices)


class TestReadAhead:
    def test_all_in_their_order(self) -> None:
        assert list(read_ahead(iter(batches(20)))) == batches(20)

    def test_an_error_comes_where_it_happened(self) -> None:
        def two_and_an_error() -> Iterator[Batch]:
            yield from batches(2)
            raise LostImageError("gone")

        read = read_ahead(two_and_an_error())
        assert [next(read), next(read)] == batches(2)
        with pytest.raises(LostImageError, match="gone"):
            next(read)

    def test_who_stops_early_leaves_no_thread(self) -> None:
        before = threading.active_count()
        read = read_ahead(iter(batches(1000)))
        next(read)
        assert threading.active_count() == before + 1
        read.close()
        assert threading.active_count() == before


def batches(count: int) -> list[Batch]:
    values = [torch.tensor(number) for number in range(count)]
    return [Batch(value, value, value, value) for value in values]
