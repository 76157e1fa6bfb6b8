"""The first module of every network here: from pixels to what convolutions take."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.imaging.preprocessing import Preprocessing


class Normalize(nn.Module):
    """uint8[N,S,S,3] RGB -> float32[N,3,S,S], `(pixel / 255 - mean) / std` per channel.

    Part of training and of the exported graph alike. The three operations are those of
    torchvision's preset, in its order, so that not even a rounding differs.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        mean, std = torch.tensor(preprocessing.mean), torch.tensor(preprocessing.std)
        self.register_buffer("mean", mean.view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", std.view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return (images.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std
