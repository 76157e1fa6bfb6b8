"""Heat maps from cached features are those of the images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from models.network import grad_cam as grad_cam_module
from tests.training.loop.conftest import config
from training.features.batches import CachedFeatures
from training.loop.accelerator import make_accelerator
from training.loop.context import TrainContext, load_data, resolved
from training.loop.image_batches import ImageBatches
from training.loop.setup import set_up, trainable_in
from training.reporter import SilentReporter
from training.reports.mistakes import Mistake, worst_mistakes

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("thin_network")]


def cached(
    tmp_path: Path, image_size: int, **changes: Any
) -> tuple[nn.Module, CachedFeatures, TrainContext]:
    """A run's network, its features, and its context, in float32."""
    values = {"strategy": "fc", "mixed_precision": "no", "cache_dir": tmp_path / "cache"} | changes
    wanted = resolved(config(tmp_path, image_size=image_size, **values))
    reporter = SilentReporter()
    data = load_data(wanted, reporter)
    context = TrainContext(wanted, data, make_accelerator("cpu", "no"), reporter)
    trainer, _ = set_up(context)
    source = CachedFeatures(context, trainer.model)
    source.plan([trainable_in(context, epoch=1)])
    return trainer.inference_model, source, context


def all_wrong(context: TrainContext) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities float32[N,C] that say another label than each image's, and the labels."""
    targets = torch.tensor(context.dataset(context.data.held_out).targets)
    classes = len(context.data.labels)
    said = nn.functional.one_hot((targets + 1) % classes, classes).float()
    return (
        said + 0.1 * torch.rand(said.shape, generator=torch.Generator().manual_seed(0))
    ), targets


@pytest.mark.parametrize(
    ("image_size", "changes", "from_features"),
    [
        (224, {}, True),
        (64, {"unfreeze": ["features.34"]}, True),  # features from before a convolution
        (64, {}, False),  # pooled to 7 x 7 from 2 x 2
        (64, {"strategy": "head"}, False),  # behind FC1
        (64, {"strategy": "full"}, False),
    ],
    ids=["fc", "unfreeze", "pooled", "head", "full"],
)
def test_maps_from_the_cache_equal_those_of_images(
    tmp_path: Path,
    image_size: int,
    changes: dict[str, Any],
    from_features: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, source, context = cached(tmp_path, image_size, **changes)
    starts: list[int] = []
    maps: list[np.ndarray[Any, Any]] = []

    def noted(*arguments: Any) -> torch.Tensor:
        found = grad_cam_module.grad_cam(*arguments)
        starts.append(arguments[4] if len(arguments) > 4 else 0)
        maps.extend(found.numpy())
        return found

    monkeypatch.setattr("training.reports.mistakes.grad_cam", noted)

    def mistakes(of: CachedFeatures | ImageBatches) -> list[Mistake]:
        maps.clear()
        return worst_mistakes(model, of, context, *all_wrong(context))

    found, own = mistakes(source), list(maps)
    assert all(starts) == from_features
    starts.clear()
    expected = mistakes(ImageBatches(context))
    assert not any(starts)
    assert len(found) == len(own) > 1
    np.testing.assert_allclose(np.stack(own), np.stack(maps), atol=1e-3)
    assert np.stack(own).max() == 1
    assert [(m.name, m.said, m.plain) for m in found] == [
        (m.name, m.said, m.plain) for m in expected
    ]
