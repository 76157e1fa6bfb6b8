from __future__ import annotations

import torch
from torch import nn

from models.network.vgg19 import VGG19
from training.data.batch import Batch
from training.loop.accelerator import make_accelerator
from training.loop.inference import predict


def test_predictions_come_in_the_order_of_the_data_without_fillers() -> None:
    batches = [
        Batch(
            torch.tensor([[5.0, 6], [1, 2]]),
            torch.tensor([9, 7]),
            torch.tensor([2, 0]),
            torch.ones(2),
        ),
        Batch(
            torch.tensor([[3.0, 4], [0, 0]]),
            torch.tensor([8, 0]),
            torch.tensor([1, 0]),
            torch.tensor([1.0, 0.0]),
        ),
    ]
    logits, targets = predict(
        make_accelerator("cpu", "no"), VGG19, nn.Identity(), nn.Identity(), batches
    )
    assert logits.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert targets.tolist() == [7, 8, 9]
