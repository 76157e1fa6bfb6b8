"""The epochs of a run, and which of them is the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Epoch:
    """One row of `history` in metrics.json. Losses in nats, accuracies 0..1.

    `train_loss` is what is trained on, label smoothing included; `val_loss` is without.

    Epoch 0 is a head fitted in closed form, before any step; what it says of the training images
    are predictions that leave the image out.
    """

    epoch: int
    learning_rate: float
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    images_per_second: float
    layers: int

    @property
    def score(self) -> tuple[float, float]:
        """The better epoch has the higher one: accuracy first, then loss."""
        return (self.val_accuracy, -self.val_loss)


def best_epoch(history: Sequence[Epoch]) -> Epoch:
    """The one with the best score; of equals the first."""
    return max(history, key=lambda epoch: epoch.score)


def should_stop(history: Sequence[Epoch], patience: int | None) -> bool:
    """Whether the best epoch is `patience` epochs past."""
    if patience is None or not history:
        return False
    return history[-1].epoch - best_epoch(history).epoch >= patience
