from __future__ import annotations

from training.loop.history import Epoch, should_stop


def epoch(number: int, val_accuracy: float, val_loss: float = 0.5) -> Epoch:
    return Epoch(number, 0, 0, 0, val_loss, val_accuracy, 0, 1)


def test_the_best_epoch_has_the_accuracy_then_the_loss() -> None:
    epochs = [epoch(1, 0.5, 0.1), epoch(2, 0.8, 0.9), epoch(3, 0.8, 0.4)]
    assert max(epochs, key=lambda row: row.score).epoch == 3


def test_early_stopping_waits_as_long_as_it_says() -> None:
    history = [epoch(1, 0.5), epoch(2, 0.8), epoch(3, 0.7)]
    assert not should_stop(history, None)
    assert not should_stop(history, 2)
    assert should_stop([*history, epoch(4, 0.8)], 2)
    assert not should_stop([*history, epoch(4, 0.9)], 2)
    assert not should_stop([], 1)
