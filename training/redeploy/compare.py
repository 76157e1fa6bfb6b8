"""Champion against challenger, as they would serve, on images that neither has trained on."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import compress
from statistics import median
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from scipy import stats

from models.bundle.bundle import Bundle
from models.imaging.image import load_image
from models.machine import cpu_count
from training.data.checks import Sample
from training.evaluate.calibration import expected_calibration_error, reliability
from training.reporter import Reporter

_BATCH = 16
_BOOTSTRAP_RESAMPLES = 9999
_CONFIDENCE = 0.95
# Runs of each session, in turns; the first is not counted.
_LATENCY_ROUNDS = 15


@dataclass(frozen=True)
class Judged:
    """One model on the held-out images.

    Args:
        labels: C, that it knows.
        predicted: int64[N], the number of its label for each image.
        is_right: bool[N].
        confidence: float64[N], the probability it gave that label.
        recall: of each class of the held-out images; a class that it doesn't know: 0.
    """

    labels: tuple[str, ...]
    predicted: NDArray[np.int64]
    is_right: NDArray[np.bool_]
    confidence: NDArray[np.float64]
    accuracy: float
    recall: dict[str, float]
    calibration_error: float

    def answer(self, image: int) -> str:
        """Its label for an image, by the image's number."""
        return self.labels[int(self.predicted[image])]


@dataclass(frozen=True)
class Comparison:
    """Everything that the gate judges. The champion's part is None where there is no champion.

    Args:
        previous_holdout: images that judged the champion already, before what is new came.
        known_difference: of the accuracies on these, and McNemar's p of it; None: there are none.
    """

    images: int
    labels: list[str]
    support: dict[str, int]
    champion: Judged | None
    challenger: Judged
    difference: float | None
    interval: tuple[float, float] | None
    p_value: float | None
    previous_holdout: int
    known_difference: float | None
    known_p_value: float | None
    latency_ms: dict[str, float]
    size_bytes: dict[str, int]

    def as_json(self) -> dict[str, Any]:
        def numbers(judged: Judged | None) -> dict[str, Any] | None:
            if judged is None:
                return None
            return {
                "accuracy": judged.accuracy,
                "calibration_error": judged.calibration_error,
                "recall": judged.recall,
            }

        return {
            "images": self.images,
            "support": self.support,
            "champion": numbers(self.champion),
            "challenger": numbers(self.challenger),
            "accuracy_difference": self.difference,
            "interval_95": self.interval,
            "mcnemar_p": self.p_value,
            "known_images": self.previous_holdout,
            "known_accuracy_difference": self.known_difference,
            "known_mcnemar_p": self.known_p_value,
            "latency_ms": self.latency_ms,
            "size_bytes": self.size_bytes,
        }


def compare(
    champion: Bundle | None, challenger: Bundle, held_out: Sequence[Sample], reporter: Reporter
) -> Comparison:
    """Judge both on the same images, and time them in turns.

    Args:
        held_out: what neither has trained on; at least one.
    """
    targets = [sample.label for sample in held_out]
    bundles = {"challenger": challenger, **({"champion": champion} if champion else {})}
    sessions = {name: _session(bundle) for name, bundle in bundles.items()}
    judged = {
        name: judge(_predict(sessions[name], bundle, held_out, reporter), bundle, targets)
        for name, bundle in bundles.items()
    }
    old, new = judged.get("champion"), judged["challenger"]
    seen = champion.seen() if champion is not None else None
    previous = np.array(
        [seen is not None and seen.in_holdout(sample.sha256) for sample in held_out]
    )
    difference, interval, p_value = None, None, None
    known_difference, known_p_value = None, None
    if old is not None:
        right_old, right_new = old.is_right, new.is_right
        difference = new.accuracy - old.accuracy
        interval, p_value = paired_interval(right_old, right_new), mcnemar(right_old, right_new)
        if previous.any():
            known_difference = float(right_new[previous].mean() - right_old[previous].mean())
            known_p_value = mcnemar(right_old[previous], right_new[previous])
    support = dict(sorted(Counter(targets).items()))
    return Comparison(
        images=len(held_out),
        labels=list(support),
        support=support,
        champion=old,
        challenger=new,
        difference=difference,
        interval=interval,
        p_value=p_value,
        previous_holdout=int(previous.sum()),
        known_difference=known_difference,
        known_p_value=known_p_value,
        latency_ms=_latencies(sessions, bundles),
        size_bytes={name: bundle.model_bytes for name, bundle in bundles.items()},
    )


def judge(probabilities: NDArray[np.float32], bundle: Bundle, targets: Sequence[str]) -> Judged:
    """Numbers of one model.

    Args:
        probabilities: float32[N,C], of the bundle's labels.
        targets: N true labels, of which the model may not know some.
    """
    labels = bundle.spec.labels
    predicted = probabilities.argmax(axis=1)
    # An unknown class has no column: its images count as wrong, in calibration as well.
    columns = {label: i for i, label in enumerate(labels)}
    truth = np.array([columns.get(target, -1) for target in targets])
    is_right = predicted == truth
    counts = Counter(targets)
    right = Counter(compress(targets, is_right))
    bins = reliability(torch.from_numpy(probabilities), torch.from_numpy(truth))
    return Judged(
        labels=labels,
        predicted=predicted,
        is_right=is_right,
        confidence=probabilities.max(axis=1).astype(np.float64),
        accuracy=float(is_right.mean()),
        recall={label: right[label] / counts[label] for label in sorted(counts)},
        calibration_error=expected_calibration_error(bins),
    )


def paired_interval(
    champion: NDArray[np.bool_], challenger: NDArray[np.bool_]
) -> tuple[float, float]:
    """95% interval of the difference in accuracy, by bootstrap over images (seeded).

    The two answers of an image are drawn together, so that what is hard for both cancels out.
    """
    differences = challenger.astype(np.float64) - champion.astype(np.float64)
    if np.all(differences == differences[0]):  # nothing to resample
        return float(differences[0]), float(differences[0])
    result = stats.bootstrap(
        (differences,), np.mean, n_resamples=_BOOTSTRAP_RESAMPLES, confidence_level=_CONFIDENCE,
        method="percentile", vectorized=True, rng=np.random.default_rng(0), batch=500,
    )  # fmt: skip
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def mcnemar(champion: NDArray[np.bool_], challenger: NDArray[np.bool_]) -> float:
    """McNemar's exact test, two-sided: could as unequal a share of the images that only one of
    them got right be luck?"""
    only_champion = int(np.sum(champion & ~challenger))
    only_challenger = int(np.sum(challenger & ~champion))
    discordant = only_champion + only_challenger
    if discordant == 0:
        return 1.0
    return float(stats.binomtest(only_champion, discordant, 0.5).pvalue)


def _session(bundle: Bundle) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = cpu_count()
    return ort.InferenceSession(bundle.model_path, options, providers=["CPUExecutionProvider"])


def _predict(
    session: ort.InferenceSession, bundle: Bundle, samples: Sequence[Sample], reporter: Reporter
) -> NDArray[np.float32]:
    """float32[N,C], each model with its own preprocessing."""
    results = []
    with (
        reporter.progress("comparing models", len(samples), unit="images") as advance,
        ThreadPoolExecutor(cpu_count()) as pool,
    ):
        for first in range(0, len(samples), _BATCH):
            batch = samples[first : first + _BATCH]
            images = pool.map(
                lambda sample: load_image(sample.path, bundle.spec.preprocessing), batch
            )
            results.append(_run(session, bundle, np.stack(list(images))))
            advance(len(batch), "")
    return np.concatenate(results)


def _run(
    session: ort.InferenceSession, bundle: Bundle, images: NDArray[np.uint8]
) -> NDArray[np.float32]:
    spec = bundle.spec
    (probabilities,) = session.run([spec.output_name], {spec.input_name: images})
    result: NDArray[np.float32] = probabilities
    return result


def _latencies(
    sessions: dict[str, ort.InferenceSession], bundles: dict[str, Bundle]
) -> dict[str, float]:
    """Median milliseconds of a batch of one, the sessions taking turns."""
    inputs = {name: bundle.golden().images[:1] for name, bundle in bundles.items()}
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(1 + _LATENCY_ROUNDS):
        for name, session in sessions.items():
            started = time.perf_counter()
            _run(session, bundles[name], inputs[name])
            times[name].append(1000 * (time.perf_counter() - started))
    return {name: median(values[1:]) for name, values in times.items()}
