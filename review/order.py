"""In which order images are worth a label.

The fit is a ridge regression, so what a label would bring is known before anybody gives it: the
variance of a prediction is x^T B x, with B the inverse of X^T X + penalty over the labelled images,
and a label for x takes (x^T B z)^2 / (1 + x^T B x) off that of each other image z (Cohn et al.
1996, "Active learning with statistical models"). An image far from all labelled ones has a large
variance, one in the midst of many others takes much off theirs, and once it is chosen its
near-copies have little left to give: distance, density and diversity are one number. It counts for
as much as the images that it would help are uncertain (as Ash et al. 2021, arXiv:2106.09675, weight
by the Fisher information), so that what is clear already is not asked for.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# Images that stand for all whose variance is to fall: more of them change the order little, and
# each costs a product with every one that is asked for.
_STAND_FOR_ALL = 2000


def uncertainty(probabilities: NDArray[np.floating]) -> Floats:
    """float[N,C] -> float64[N], 0..1: 1 less what the best class is ahead of the second."""
    if probabilities.shape[1] < 2:
        return np.ones(len(probabilities))
    best = np.partition(probabilities.astype(np.float64), -2, axis=1)[:, -2:]
    return 1 - (best[:, 1] - best[:, 0])


def first_penalty(coordinates: NDArray[np.floating]) -> float:
    """Before a fit says better: a hundredth of the mean square along a direction; 1 where all
    images are alike, so that any will do.

    Args:
        coordinates: float[N,q], centred.
    """
    return float(np.square(coordinates, dtype=np.float64).sum() / coordinates.shape[1]) / 100 or 1.0


def most_valuable(
    features: NDArray[np.floating],
    labelled: Integers,
    candidates: Integers,
    doubt: Floats,
    *,
    penalty: float,
    count: int,
) -> list[int]:
    """Those of the candidates whose labels would bring most, the best first; each is chosen as if
    those before it were labelled.

    Args:
        features: float[N,p], centred.
        labelled: int64[L], rows that have a label.
        candidates: int64[M], rows without.
        doubt: float64[N], 0..1, how uncertain the prediction for each image is.
        penalty: of the ridge regression, above 0, absolute.
        count: of rows to choose.
    """
    known = features[labelled].astype(np.float64)
    inverse = np.linalg.inv(known.T @ known + penalty * np.eye(features.shape[1]))
    rows = features[candidates].astype(np.float64)
    step = -(-len(rows) // _STAND_FOR_ALL) or 1
    weighted = rows[::step] * np.sqrt(doubt[candidates[::step]])[:, None]
    pool = weighted.T @ weighted
    variance = np.einsum("ij,ij->i", rows @ inverse, rows)
    spread = inverse @ pool @ inverse
    taken_off = np.einsum("ij,ij->i", rows @ spread, rows)
    own, free = doubt[candidates], np.ones(len(rows), np.bool_)
    chosen: list[int] = []
    for _ in range(min(count, len(rows))):
        best = int(np.argmax(np.where(free, own * taken_off / (1 + variance), -np.inf)))
        chosen.append(int(candidates[best]))
        free[best] = False
        # As after its label: B loses b b^T / c, with b = B x and c = 1 + x^T B x.
        b = inverse @ rows[best]
        c = 1 + float(rows[best] @ b)
        q = spread @ rows[best]  # B pool B x
        share, other = rows @ b, rows @ q
        whole = float(rows[best] @ q)
        variance -= share**2 / c
        taken_off += share**2 * whole / c**2 - 2 * share * other / c
        inverse -= np.outer(b, b) / c
        spread += np.outer(b, b) * whole / c**2 - (np.outer(b, q) + np.outer(q, b)) / c
    return chosen
