from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import adaptive_avg_pool2d

from models.network.build import build
from models.network.vgg19 import VGG19
from testing.images import write_image_folder
from tests.cli.test_config_flags import OTHER
from tests.made_up_network import MADE_UP
from training.features.cache import list_entries
from training.loop.accelerator import make_accelerator
from training.loop.config import NO_AUGMENTATION
from training.loop.config_file import load_config
from training.loop.context import TrainContext, load_data
from training.probe.features import ProbeError, depth_features, depths
from training.reporter import SilentReporter

NAMES = ["block 1", "block 2", "block 3", "block 4", "block 5", "FC1", "FC2"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_image_folder(tmp_path / "data", {"blue": 13, "red": 13})


def make_context(data: Path, **changes: Any) -> TrainContext:
    values = {
        "data": data, "output": "run", "image_size": 32, "split_by": "exact", "augment": "none",
        "weights": "none", "mixed_precision": "no", "cache_dir": data.parent / "cache",
    }  # fmt: skip
    config = load_config(None, values | changes).resolved(blocks=5)
    reporter = SilentReporter()
    accelerator = make_accelerator("cpu", "no")
    return TrainContext(config, load_data(config, reporter), accelerator, reporter)


def test_images_are_looked_at_as_they_are_served(data: Path) -> None:
    """Whatever the configuration of the run changes of images, fields that come later included."""
    needed = ("data", "output", "image_size", "resize", "resize_size", "exclude", "split_names")
    changes = {name: value for name, value in OTHER.items() if name not in needed}
    changed = make_context(data, **changes)
    assert changed.augmentation.description is not None
    plain = make_context(data, **changes | NO_AUGMENTATION)
    assert plain.augmentation.description is None


def test_vgg19s_depths_are_bounded_at_any_size() -> None:
    for image_size in (32, 224):
        found = depths(VGG19, image_size)
        assert [depth.name for depth in found] == NAMES
        assert max(depth.values for depth in found) <= 4096
    assert [depth.values for depth in found] == [1024, 2048, 4096, 2048, 2048, 4096, 4096]
    columns = [(depth.columns.start, depth.columns.stop) for depth in found]
    assert [start for start, _ in columns[1:]] == [stop for _, stop in columns[:-1]]


def test_at_each_depth_the_next_layer_is_the_one_that_a_strategy_would_train_first() -> None:
    modules = VGG19.sequence(VGG19.empty(2))
    assert [modules[depth.index][0] for depth in depths(VGG19, 32)] == [
        "features.5", "features.10", "features.19", "features.28", "avgpool", "classifier.3",
        "classifier.6",
    ]  # fmt: skip


def test_another_network_has_its_own() -> None:
    found = [(depth.name, depth.side, depth.values) for depth in depths(MADE_UP, 32)]
    assert found == [("block 1", 4, 8 * 16), ("block 2", 4, 12 * 16), ("FC1", None, 20)]


@pytest.mark.usefixtures("thin_network")
class TestFeatures:
    def test_are_those_of_the_network_pooled(self, data: Path) -> None:
        context = make_context(data)
        model = build(VGG19, "none", 2).eval()
        places = depths(VGG19, 32)
        features = depth_features(context, model, places)
        dataset = context.dataset("train")
        images = torch.stack([dataset.pixels(index) for index in range(len(dataset))])
        with torch.inference_mode():
            for depth in places:
                expected = VGG19.run(model, context.normalize(images), 0, depth.index)
                if depth.side:
                    expected = adaptive_avg_pool2d(expected, depth.side)
                np.testing.assert_allclose(
                    features[:, depth.columns], expected.flatten(1), rtol=2e-3, atol=1e-3
                )

    def test_are_found_the_second_time_unless_weights_or_images_are_others(
        self, data: Path
    ) -> None:
        torch.manual_seed(0)
        model, places = build(VGG19, "none", 2), depths(VGG19, 32)
        first, again = make_context(data), make_context(data)
        a = depth_features(first, model, places)
        b = depth_features(again, model, places)
        np.testing.assert_array_equal(a, b)
        assert ["computed" in message for message in first.reporter.messages] == [True]  # type: ignore[attr-defined]
        assert ["found in" in message for message in again.reporter.messages] == [True]  # type: ignore[attr-defined]
        depth_features(again, build(VGG19, "none", 2), places)
        assert len(list_entries(data.parent / "cache")) == 2

    def test_without_room_an_error_says_what_it_takes(self, data: Path) -> None:
        context = make_context(data, cache_limit="1kB")
        with pytest.raises(
            ProbeError, match=r"take 0\.0 GB, more than cache_limit .*--cache-limit"
        ):
            depth_features(context, build(VGG19, "none", 2), depths(VGG19, 32))

    def test_what_float16_doesnt_hold_becomes_its_largest_number(self, data: Path) -> None:
        model = build(VGG19, "none", 2)
        with torch.no_grad():
            model.get_submodule("features.0").weight.mul_(1e9)  # type: ignore[operator]
        features = depth_features(make_context(data), model, depths(VGG19, 32))
        assert np.isfinite(features).all()
        assert features.max() == np.finfo(np.float16).max
