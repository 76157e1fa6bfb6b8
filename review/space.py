"""The features of a depth in few directions, so that a fit takes milliseconds and an order of
thousands of images a moment."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

# Directions that are kept, and images that decide which they are. A fit then costs products and
# one decomposition of 256 x 256 at most, whatever the depth and however many images there are.
DIRECTIONS = 256
_DECIDING = 2048
_BLOCK = 4096
# Directions that are sought besides, and rounds of it (as scikit-learn's default for so few).
_MORE, _ROUNDS = 10, 7


@dataclass(frozen=True)
class Space:
    """Features of all images in their principal directions.

    Args:
        coordinates: float32[N,q], centred.
        directions: float32[q,p], orthonormal. mean: float32[p].
    """

    coordinates: NDArray[np.float32]
    directions: NDArray[np.float32]
    mean: NDArray[np.float32]

    def of(self, features: NDArray[np.floating]) -> NDArray[np.float32]:
        """float[M,p], of any images -> float32[M,q], in the same directions."""
        centred = features.astype(np.float32) - self.mean
        found: NDArray[np.float32] = np.matmul(centred, self.directions.T)
        return found


def make_space(features: NDArray[np.floating]) -> Space:
    """Of features float[N,p], the same for the same features.

    The directions are those of evenly spread images, and the means of the same.
    """
    step = -(-len(features) // _DECIDING)
    deciding = features[::step].astype(np.float32)
    mean, directions = _principal(deciding, min(DIRECTIONS, *deciding.shape))
    empty = Space(np.empty((0, len(directions)), np.float32), directions, mean)
    blocks = (features[start : start + _BLOCK] for start in range(0, len(features), _BLOCK))
    return replace(empty, coordinates=np.concatenate([empty.of(block) for block in blocks]))


def _principal(
    features: NDArray[np.float32], count: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The mean, float32[p], and that many directions, float32[count,p], of features float32[N,p];
    what is all alike, as one image is, has no directions and is given the first axis.

    By subspace iteration from a random start (Halko et al. 2011, arXiv:0909.4061, algorithm 4.4):
    scikit-learn has it, too, and the serving image has no scikit-learn.
    """
    if (features == features[0]).all():
        return features[0], np.eye(1, features.shape[1], dtype=np.float32)
    mean = features.mean(axis=0)
    centred = features - mean
    width = min(count + _MORE, *centred.shape)
    basis = np.random.default_rng(0).normal(size=(centred.shape[1], width)).astype(np.float32)
    for _ in range(_ROUNDS):
        basis = np.linalg.qr(centred.T @ np.linalg.qr(centred @ basis)[0])[0]
    within = np.linalg.svd(centred @ basis, full_matrices=False)[2]
    return mean, within[:count] @ basis.T
