"""Learning-rate range test (Smith 2015, arXiv:1506.01186): raise the rate step by step, watch the
loss, and suggest the rate around which it falls fastest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count, islice
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from training.data.batch import Batch, BatchSource
from training.features.batches import CachedFeatures
from training.loop.accelerator import make_accelerator
from training.loop.config import TrainConfig
from training.loop.context import TrainContext, load_data, resolved
from training.loop.preflight import check_config, check_decided, check_rates
from training.loop.processes import Processes
from training.loop.setup import set_up, trainable_in
from training.loop.trainer import TrainingError, TrainState
from training.probe.head_start import start_head
from training.reporter import Reporter
from training.reports.plots import BLUE, ORANGE, PLOT_STYLE

# fastai's and PyTorch Lightning's range tests smooth by as much and stop as early.
_SMOOTHING = 0.9
_STOP_AT = 4.0
# A slope is that of so many powers of ten of the rate, and of no fewer points.
_DECADE, _LEAST_POINTS = 1.0, 3


@dataclass(frozen=True)
class RangeTest:
    """Rates of the head, the smoothed losses at them, and the suggestion."""

    learning_rates: list[float]
    losses: list[float]
    suggestion: float


def find_learning_rate(
    config: TrainConfig, reporter: Reporter, *, lowest: float, highest: float, steps: int
) -> RangeTest:
    """Run the test on what a run would begin with, its fitted head included (see
    `training.probe.head_start`); nothing is kept of the training.

    All layers' rates rise together, in the proportions of the configuration.

    Raises:
        UserError: the configuration or the range can't be carried out; no image was read.
        TrainingError: fewer than ten steps went well.
    """
    check_config(config)
    check_decided(config)
    check_rates(lowest, highest, steps)
    config = resolved(config)
    accelerator = make_accelerator(config.device, config.mixed_precision)
    context = TrainContext(config, load_data(config, reporter), accelerator, reporter)
    trainer, _ = set_up(context)
    source = CachedFeatures(context, trainer.model)
    source.plan([trainable_in(context, epoch=1)])
    start_head(trainer, source, context, Processes(accelerator))
    ratio = (highest / lowest) ** (1 / (steps - 1))
    trainer.factor = lambda step: lowest * ratio**step / config.learning_rate
    state, rates, losses = TrainState(), list[float](), list[float]()
    average = 0.0
    with reporter.progress("raising the learning rate", steps) as advance:
        for batch in _batches(source, steps):
            before = state.stats.loss_sum
            rate = lowest * ratio**state.step
            try:
                size = trainer.step(batch, state)
            except TrainingError:
                break  # the loss is no longer a number: far enough
            average = _SMOOTHING * average + (1 - _SMOOTHING) * (
                (state.stats.loss_sum - before) / size
            )
            rates.append(rate)
            losses.append(average / (1 - _SMOOTHING**state.step))
            advance(1, f"rate {rate:.2e} loss {losses[-1]:.3f}")
            if losses[-1] > _STOP_AT * min(losses):
                break
    if len(rates) < 10:
        raise TrainingError(
            f"the loss diverged after {len(rates)} steps; begin with a lower rate (--lowest)"
        )
    test = RangeTest(rates, losses, suggest(rates, losses))
    if test.suggestion == rates[0]:
        reporter.warn(
            f"no rate is better than another one: the loss rises from {lowest:.0e} on; keep the "
            "default rate, begin with a lower one (--lowest), or with --head-init random"
        )
    return test


def suggest(rates: Sequence[float], losses: Sequence[float]) -> float:
    """The rate around which the loss falls fastest, before its lowest point.

    By the line of least squares through the losses of a decade of rates: from one step to the next,
    noise falls faster, most of all at the beginning, where the average is one of few. (The middle
    of the longest fall, fastai's `valley`, was a tenth of the best rate: a long flat beginning that
    falls by next to nothing counts there as well; see docs/training.md.) The first half of a decade
    is not suggested.
    """
    lowest = min(range(len(losses)), key=losses.__getitem__)
    logs = np.log10(rates[: lowest + 1])
    before = np.array(losses[: lowest + 1])

    def slope(place: int) -> float:
        near = np.abs(logs - logs[place]) <= _DECADE / 2
        if near.sum() < _LEAST_POINTS:
            return 0.0
        return float(np.polyfit(logs[near], before[near], 1)[0])

    inner = [place for place in range(lowest + 1) if logs[place] - logs[0] >= _DECADE / 2]
    return rates[min(inner, key=slope, default=lowest)]


def loss_range(losses: Sequence[float]) -> tuple[float, float]:
    """What of the losses to show: from the lowest to the highest before it, with a margin.

    Where it diverges, after that, the loss may be thousands, and what matters a flat line.
    """
    place = min(range(len(losses)), key=losses.__getitem__)
    lowest, highest = losses[place], max(losses[: place + 1])
    # A curve that only rises, or hardly falls: so much of the rise that it is seen as one.
    height = max(highest - lowest, 0.1 * lowest, 1e-6)
    return lowest - 0.05 * height, lowest + 1.3 * height


def plot(test: RangeTest, path: Path) -> None:
    """Write the curve with the suggestion as PNG."""
    with mpl.rc_context(PLOT_STYLE):
        figure = Figure(figsize=(6, 3.6))
        axes = figure.add_subplot()
        axes.plot(test.learning_rates, test.losses, color=BLUE)
        axes.axvline(test.suggestion, color=ORANGE, linestyle=":")
        axes.set_xscale("log")
        axes.set_ylim(*loss_range(test.losses))
        axes.set(
            xlabel="learning rate of the head",
            ylabel="loss (smoothed)",
            title=f"suggested: {test.suggestion:.1e}",
        )
        figure.savefig(path, bbox_inches="tight")


def _batches(source: BatchSource, steps: int) -> Iterator[Batch]:
    """As many batches as steps, over as many epochs as that takes."""
    epochs = (source.batches("train", epoch) for epoch in count(1))
    return islice(chain.from_iterable(epochs), steps)
