"""What in an image speaks for a label, by the head that was fitted last.

At a depth of maps, the score is a sum over the places of the map, so each place's share in it is
exact: a class activation map (Zhou et al. 2016, arXiv:1512.04150). Behind the fully connected
layers it is gradient times activation of the last maps, as in Grad-CAM (`models.network.grad_cam`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from models.imaging.image import load_image
from models.network.grad_cam import LEAST_SCALE
from review.pictures import explained
from training.probe.features import Depth
from training.review.pool import NetworkPool


def heat_map(
    pool: NetworkPool, path: Path, depth: Depth, weight: NDArray[np.float32], label: str
) -> NDArray[np.uint8]:
    """What the model sees of an image, under its heat map.

    Args:
        depth: whose features the head reads.
        weight: float32[p], the head's for this label, on these features.

    Returns:
        uint8[S,S,3].

    Raises:
        ImageError: the file can't be read. NotNow: the map would show nothing.
    """
    pixels = load_image(path, pool.preprocessing)
    return explained(pixels, _scaled(shares(pool, pixels, depth, weight)), label)


def shares(
    pool: NetworkPool, pixels: NDArray[np.uint8], depth: Depth, weight: NDArray[np.float32]
) -> Tensor:
    """What each place of the depth's maps, or of the last maps before it, adds to the score.

    Args:
        pixels: uint8[S,S,3]. weight: float32[p].

    Returns:
        float32[h,w].
    """
    context, architecture, model = pool.context, pool.context.architecture, pool.model
    device = context.accelerator.device
    images = torch.from_numpy(pixels.copy())[None].to(device)
    stop = min(architecture.index(model, architecture.pooling), depth.index)
    model.eval()
    with torch.no_grad():
        maps = architecture.run(model, context.normalize(images), 0, stop)
    with torch.enable_grad():
        maps.requires_grad_()
        features = architecture.run(model, maps, stop, depth.index)
        if depth.side is not None:
            features = adaptive_avg_pool2d(features, depth.side)
        score = (features.flatten() * torch.from_numpy(weight).to(device)).sum()
        (gradient,) = torch.autograd.grad(score, maps)
    added: Tensor = (gradient * maps.detach()).sum(dim=1)[0]
    return added


def _scaled(shares: Tensor) -> NDArray[np.float32]:
    """float32[h,w] -> the same, 0..1; what speaks against the label is 0."""
    positive = shares.relu()
    scaled = positive / positive.max().clamp(min=LEAST_SCALE)
    return scaled.float().cpu().numpy()
