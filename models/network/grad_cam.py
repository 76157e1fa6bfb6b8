"""Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391) on what goes into a network's average pooling:
where the pixels are that speak for a class. By automatic differentiation; for a service without
PyTorch see `models.export.explainer_graph`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.network.architecture import Architecture

# What keeps a map without a value above 0 from a division by zero. The package `grad-cam`, whose
# maps these are equal to, adds 1e-7, but scales twice, after which nothing is left of it.
LEAST_SCALE = 1e-30


def grad_cam(
    architecture: Architecture, model: nn.Module, inputs: Tensor, targets: Tensor, start: int = 0
) -> Tensor:
    """A map for each image: how much each place of the pooled features speaks for a class.

    Args:
        inputs: float32[N,3,S,S], normalised; with `start` above 0 what goes into that module of the
            network's sequence, the pooling or one before it.
        targets: int64[N], a class for each.

    Returns:
        float32[N,h,w], each from 0 to 1 (all 0 where nothing speaks for the class); h and w of
        VGG-19 are S/32.
    """
    pooling = architecture.index(model, architecture.pooling)
    with torch.enable_grad():
        with torch.no_grad():
            features = architecture.run(model, inputs, start, pooling)
        features.requires_grad_()
        logits = architecture.run(model, features, pooling)
        scores = logits.gather(1, targets[:, None]).sum()
        (gradient,) = torch.autograd.grad(scores, features)
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    maps = (weights * features.detach()).sum(dim=1).relu()
    maps = maps - maps.amin(dim=(1, 2), keepdim=True)
    scaled: Tensor = maps / maps.amax(dim=(1, 2), keepdim=True).clamp(min=LEAST_SCALE)
    return scaled
