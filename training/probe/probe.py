"""`vgg19 probe`: what each depth of the frozen network is worth for a data set, what to train, and
which labels are probably wrong."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass

import numpy as np

from models.linear.ridge import Design
from training.data.image_data import ImageData
from training.loop.accelerator import make_accelerator
from training.loop.config import NO_AUGMENTATION, TrainConfig
from training.loop.context import TrainContext, load_data, resolved
from training.loop.preflight import check_config
from training.loop.setup import set_up
from training.probe.features import Depth, depth_features, depths
from training.probe.judge import CurvePoint, DepthScore, learning_curve, score
from training.probe.recommend import Recommendation, best_of, recommend
from training.probe.suspects import Suspect, find_suspects
from training.probe.units import units_together
from training.reporter import Reporter

# Suspects for which the nearest images are looked up and pictures are shown.
SHOWN_SUSPECTS = 60


@dataclass(frozen=True)
class Probe:
    """What was found.

    Args:
        command: that trains as is recommended; None where nothing is.
        scores: of each depth, from the images on.
        majority: the share of the largest class, what always answering it would be right for.
        curve: at the best depth.
        seconds: of fitting and judging; the features have their own.
    """

    config: TrainConfig
    title: str
    data: ImageData
    scores: tuple[DepthScore, ...]
    majority: float
    curve: list[CurvePoint]
    recommendation: Recommendation
    command: str | None
    suspects: list[Suspect]
    seconds: float

    @property
    def best(self) -> DepthScore:
        return best_of(self.scores)


def probe(
    config: TrainConfig, reporter: Reporter, *, train: str, data: ImageData | None = None
) -> Probe:
    """Fit a linear classifier to the frozen features of each depth, and judge it by what the
    training images say of each other. Images held out to validate and test are not looked at.

    Args:
        config: of a run; what it says of augmentation and of training doesn't count.
        train: the command that trains with this configuration, without a strategy.
        data: images that were read already; None: those that the configuration names.

    Raises:
        UserError: the configuration can't be carried out.
        ProbeError: there is no room for the features.
    """
    context, designs = _designs(config, reporter, data)
    started = time.monotonic()
    scores = []
    with reporter.progress("fitting", len(designs)) as advance:
        for depth, design in designs.items():
            scores.append(score(design, depth))
            advance(1, depth.name)
    best = best_of(scores)
    design = designs[best.depth]
    counts = Counter(design.targets.tolist())
    majority = max(counts.values()) / len(design)
    recommendation = recommend(scores, majority, config.weights, context.architecture)
    return Probe(
        config=context.config,
        title=context.architecture.title,
        data=context.data,
        scores=tuple(scores),
        majority=majority,
        curve=learning_curve(design, context.config.seed),
        recommendation=recommendation,
        command=recommendation.options and f"{train} {recommendation.options}",
        suspects=find_suspects(context.data, design, best.predictions, shown=SHOWN_SUSPECTS),
        seconds=time.monotonic() - started,
    )


def _designs(
    config: TrainConfig, reporter: Reporter, data: ImageData | None
) -> tuple[TrainContext, dict[Depth, Design]]:
    """The features of each depth with their labels."""
    check_config(config)
    plain = NO_AUGMENTATION | {"strategy": "head", "unfreeze": ()}
    config = resolved(config.model_copy(update=plain))
    accelerator = make_accelerator(config.device, config.mixed_precision)
    data = data or load_data(config, reporter)
    context = TrainContext(config, data, accelerator, reporter)
    trainer, _ = set_up(context)
    places = depths(context.architecture, config.image_size)
    features = depth_features(context, trainer.model.model, places)
    targets = np.array(context.dataset("train").targets, np.int64)
    units = units_together(context.data, reporter)
    classes = len(context.data.labels)
    return context, {
        place: Design(features[:, place.columns], targets, classes, units) for place in places
    }
