from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import adaptive_avg_pool2d

from models.imaging.image import load_image
from models.network.build import build
from models.network.vgg19 import VGG19
from testing.images import write_image_folder
from training.loop.accelerator import make_accelerator
from training.loop.config_file import load_config
from training.loop.context import TrainContext, load_data
from training.probe.features import depths
from training.reporter import SilentReporter
from training.review.heat import shares
from training.review.pool import NetworkPool


@pytest.fixture
def pool(tmp_path: Path, thin_network: None) -> NetworkPool:
    data = write_image_folder(tmp_path / "data", {"blue": 4, "red": 4})
    values = {"data": data, "output": "run", "image_size": 64, "weights": "none"}
    config = load_config(None, values).resolved(blocks=5)
    context = TrainContext(
        config, load_data(config, SilentReporter()), make_accelerator("cpu", "no"), SilentReporter()
    )
    torch.manual_seed(0)
    return NetworkPool(
        (), {}, config.preprocessing(), {}, context, build(VGG19, "none", 2).eval(), None
    )


def test_at_a_depth_of_maps_the_shares_sum_to_the_score(pool: NetworkPool, tmp_path: Path) -> None:
    path = next((tmp_path / "data").rglob("*.png"))
    pixels = load_image(path, pool.preprocessing)
    for depth in depths(VGG19, 64):
        weight = np.random.default_rng(0).normal(size=depth.values).astype(np.float32)
        found = shares(pool, pixels, depth, weight)
        inputs = pool.context.normalize(torch.from_numpy(pixels.copy())[None])
        with torch.inference_mode():
            features = VGG19.run(pool.model, inputs, 0, depth.index)
            if depth.side is None:
                assert found.shape == (2, 2)
                continue
            features = adaptive_avg_pool2d(features, depth.side).flatten()
        expected = float(features @ torch.from_numpy(weight))
        assert float(found.sum()) == pytest.approx(expected, rel=1e-3, abs=1e-4)
