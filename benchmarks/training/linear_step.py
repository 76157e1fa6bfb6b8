"""A training step of `fc` from cached features, with gradients and without
(`training.loop.linear_step`): VGG-19 at 224 px, random weights and features, AdamW, clipping.

    python -m benchmarks.training.linear_step

The two take turns on the same network; medians, and of ratios. The peak of memory is that of the
process during such steps (Linux).
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path
from unittest.mock import patch

# As the command does, before torch allocates anything.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import torch
from torch import nn

from benchmarks.report import save
from models.network.build import build
from models.network.strategies import FineTuner, parameter_groups, trainable_layers
from models.network.vgg19 import VGG19
from training.data.batch import Batch
from training.loop.accelerator import make_accelerator
from training.loop.optimizer import make_optimizer
from training.loop.trainer import Objective, Trainer, TrainState

_CLASSES = 10
# Steps in turn.
_STEPS = 3
# Of `LEAST_SIDE`: no layer is as wide, so that the step is the optimizer's alone; and all are.
_WAYS = {"with": 10**9, "without": 1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 32, 64, 128])
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    trainer = make_trainer()
    rows = {}
    for size in options.batches:
        rows[size] = measure(trainer, random_batch(size), options.rounds)
        figures = "  ".join(f"{key} {value:.2f}" for key, value in rows[size].items())
        print(f"batch {size:3}  {figures}", flush=True)
    save("linear_step", {"threads": torch.get_num_threads(), "batches": rows})


def measure(trainer: Trainer, batch: Batch, rounds: int) -> dict[str, float]:
    """Milliseconds a step, and megabytes, with gradients and without."""
    milliseconds: dict[str, list[float]] = {way: [] for way in _WAYS}
    peaks: dict[str, float] = {}
    state = TrainState()
    for _ in range(rounds):
        for way, least_side in _WAYS.items():
            with patch("training.loop.linear_step.LEAST_SIDE", least_side):
                trainer.step(batch, state)  # the first one frees what the other way leaves
                _forget_peak()
                started = time.perf_counter()
                for _ in range(_STEPS):
                    trainer.step(batch, state)
                elapsed = time.perf_counter() - started
            milliseconds[way].append(elapsed * 1000 / _STEPS)
            peaks[way] = _peak_mb()
    first, second = milliseconds.values()
    return {
        "with_ms": statistics.median(first),
        "without_ms": statistics.median(second),
        "without/with": statistics.median(b / a for a, b in zip(first, second, strict=True)),
        "with_peak_mb": peaks["with"],
        "without_peak_mb": peaks["without"],
    }


def make_trainer() -> Trainer:
    torch.manual_seed(0)
    model = build(VGG19, "none", _CLASSES)
    tuner = FineTuner(VGG19, model)
    names = trainable_layers(VGG19, "fc")
    tuner.set_trainable(names)
    rates = dict.fromkeys(VGG19.layer_names, 1e-6)
    accelerator = make_accelerator("cpu", "no")
    optimizer = make_optimizer(
        parameter_groups(VGG19.layers(model), names, rates),
        "adamw",
        weight_decay=0.01,
        momentum=0.9,
        device=accelerator.device,
    )
    return Trainer(
        accelerator,
        tuner,
        nn.Identity(),
        optimizer,
        objective=Objective(),
        factor=lambda step: 1.0,
        clip_norm=1.0,
    )


def random_batch(size: int) -> Batch:
    start = VGG19.index(VGG19.empty(_CLASSES), "classifier.0")
    features = torch.rand(size, *VGG19.shape_before(start, image_size=224))
    targets = torch.randint(0, _CLASSES, (size,))
    return Batch(features, targets, torch.arange(size), torch.ones(size), start)


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what it is now


def _peak_mb() -> float:
    status = dict(
        line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines()
    )
    return int(status["VmHWM"].split()[0]) / 1024


if __name__ == "__main__":
    main()
