from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType

from training.loop.accelerator import make_accelerator
from training.loop.trainer import TrainingError


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has what it asks for")
def test_a_device_that_is_not_there() -> None:
    with pytest.raises(TrainingError, match="device is 'cuda', which PyTorch doesn't find here"):
        make_accelerator("cuda", "no")


@pytest.mark.parametrize("kind", ["FSDP", "DEEPSPEED", "MEGATRON_LM"])
def test_sharded_weights_are_refused_before_anything_is_read(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    configured = SimpleNamespace(distributed_type=DistributedType[kind])
    monkeypatch.setattr("training.loop.accelerator.Accelerator", lambda **_: configured)
    with pytest.raises(TrainingError, match=f"configured for {kind}.* run torchrun"):
        make_accelerator("cpu", "no")
