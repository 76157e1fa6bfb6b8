"""What the service compares production with: histograms of the validation images, made when
training ends and the features of the frozen layers are at hand."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from torch import nn

from models.bundle.acceptance import Acceptance
from models.export.distance_graph import FeatureStatistics
from models.machine import cpu_count
from models.monitoring.features import ImageMeasures, measured
from models.monitoring.reference import Reference
from training.data.batch import BatchSource
from training.evaluate.ood import look_at
from training.loop.context import TrainContext

# More would make the test more sensitive than the choice of the epoch and of the temperature by
# these images allows (docs/drift.md), and each is decoded once more.
_IMAGES = 2_000


def drift_reference(
    model: nn.Module,
    source: BatchSource,
    context: TrainContext,
    temperature: float,
    statistics: FeatureStatistics,
    acceptance: dict[str, Any],
) -> Reference:
    """Histograms of the validation images, of a random 2,000 where there are more: classes are to
    be as frequent as they are there.

    Args:
        acceptance: as `find_acceptance` gives it for metrics.json.

    Raises:
        LostImageError: an image was readable when training began, and is no longer.
    """
    dataset = context.dataset("val")
    rng = np.random.default_rng(context.config.seed)
    count = min(_IMAGES, len(dataset))
    images = sorted(rng.choice(len(dataset), count, replace=False).tolist())
    batches = source.batches("val", images=images, shared=False)
    looked = look_at(model, context, batches, temperature)
    distances = statistics.distances(looked.features).tolist()
    rule = Acceptance(**{name: acceptance[name] for name in Acceptance.model_fields})
    with ThreadPoolExecutor(cpu_count()) as pool:
        measures = pool.map(lambda index: ImageMeasures.of(dataset.decoded(index)), images)
        rows = [
            measured(
                image, confidence, distance, label, accepted=rule.accepts(confidence, distance)
            )
            for image, confidence, distance, label in zip(
                measures,
                looked.confidence.tolist(),
                distances,
                looked.probabilities.argmax(axis=1).tolist(),
                strict=True,
            )
        ]
    return Reference.of_rows(np.array(rows), context.data.labels)
