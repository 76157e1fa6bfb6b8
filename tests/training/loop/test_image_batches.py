from __future__ import annotations

from itertools import chain
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from testing.images import write_image_folder
from training.data.sampling import Draw
from training.loop.accelerator import make_accelerator
from training.loop.config_file import load_config
from training.loop.context import TrainContext, load_data
from training.loop.image_batches import ImageBatches
from training.reporter import SilentReporter


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> TrainContext:
    """10 images to train on, 2 to validate, 2 to test; batches of 4, or of 3 to evaluate."""
    root = tmp_path_factory.mktemp("run")
    values = {
        "data": write_image_folder(root / "data", {"blue": 7, "red": 7}), "output": root / "run",
        "image_size": 32, "batch_size": 4, "micro_batch_size": 3, "split_by": "exact",
        "augment": "trivial",
    }  # fmt: skip
    config = load_config(None, values).resolved(blocks=5)
    reporter = SilentReporter()
    data = load_data(config, reporter)
    return TrainContext(config, data, make_accelerator("cpu", "no"), reporter)


def of_process(context: TrainContext, index: int) -> ImageBatches:
    """The source in one of two processes."""
    process: Any = SimpleNamespace(device=torch.device("cpu"), process_index=index, num_processes=2)
    return ImageBatches(TrainContext(context.config, context.data, process, context.reporter))


def numbers(batches: Any) -> list[list[int]]:
    return [batch.indices.tolist() for batch in batches]


def test_an_epoch_is_shuffled_augmented_and_can_be_begun_anywhere(context: TrainContext) -> None:
    source, dataset = ImageBatches(context), context.dataset("train")
    first, second = numbers(source.batches("train", 1)), numbers(source.batches("train", 2))
    assert [len(batch) for batch in first] == [4, 4, 2]
    assert sorted(chain(*first)) == sorted(chain(*second)) == list(range(10))
    assert first != second
    assert numbers(source.batches("train", 2, start=1)) == second[1:]
    batch = next(iter(source.batches("train", 2)))
    pixels, target, *_ = dataset[Draw(second[0][0], 2 * 10)]  # the seed of its place in the run
    assert torch.equal(batch.inputs[0], pixels)
    assert not torch.equal(pixels, dataset.pixels(second[0][0]))
    assert batch.targets[0] == target
    assert batch.start == 0


def test_other_splits_come_as_they_are_in_each_epoch(context: TrainContext) -> None:
    (batch,) = ImageBatches(context).batches("val", 7)
    assert batch.indices.tolist() == [0, 1]
    assert torch.equal(batch.inputs[1], context.dataset("val").pixels(1))


def test_chosen_images_keep_their_order(context: TrainContext) -> None:
    chosen = ImageBatches(context).batches("train", 5, images=[8, 1, 5, 3])
    assert numbers(chosen) == [[8, 1, 5], [3]]


def test_two_processes_share_or_each_has_all(context: TrainContext) -> None:
    sources = [of_process(context, index) for index in (0, 1)]
    images = list(range(6))
    shared = [numbers(source.batches("train", images=images)) for source in sources]
    assert shared == [[[0, 2], [3, 5]], [[1], [4]]]
    for source in sources:
        alone = numbers(source.batches("train", images=images, shared=False))
        assert alone == [[0, 1, 2], [3, 4, 5]]


def test_what_batches_are_made_of_is_made_once(context: TrainContext) -> None:
    assert context.dataset("train") is context.dataset("train")
    assert context.dataset("train")._augmentation is context.augmentation
    assert context.dataset("val")._augmentation is None
    assert context.normalize is context.normalize
