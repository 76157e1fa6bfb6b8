"""Whether a challenger deserves production: rules, each with its numbers and its verdict."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict, Field

from models.monitoring.verdict import Verdict
from training.redeploy.compare import Comparison


class GateConfig(BaseModel):
    """Limits of the rules; null switches a rule off."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    min_held_out: int | None = Field(default=50, ge=1, description="images that judge")
    min_accuracy: float | None = Field(
        default=None, ge=0, le=1, description="that the challenger must reach, champion or not"
    )
    min_difference: float | None = Field(
        default=0.0, ge=-1, le=1, description="of the accuracies, challenger minus champion"
    )
    min_interval_low: float | None = Field(
        default=-0.05,
        ge=-1,
        le=1,
        description="lower end of the 95% interval of that difference (paired bootstrap)",
    )
    significance: float | None = Field(
        default=0.05,
        gt=0,
        lt=1,
        description="a challenger with fewer right is refused if McNemar's exact p is below this",
    )
    min_known_difference: float | None = Field(
        default=-0.02,
        ge=-1,
        le=1,
        description="of the accuracies on the images that judged the champion already, where wrong "
        "labels that came since can't flatter a challenger that learnt from them; less is refused "
        "if McNemar's exact p is below significance",
    )
    max_class_drop: float | None = Field(
        default=0.1, ge=0, le=1, description="in the recall of any class"
    )
    min_class_images: int = Field(
        default=10, ge=1, description="held-out images that a class needs for max_class_drop"
    )
    better_than_largest_class: bool = Field(
        default=True,
        description="refuse a challenger that is right no more often than always answering the "
        "largest class would be",
    )
    max_calibration_error: float | None = Field(
        default=0.1, gt=0, le=1, description="expected calibration error of the challenger"
    )
    max_parity_difference: float | None = Field(
        default=1e-4, gt=0, description="of any probability, ONNX Runtime against PyTorch"
    )
    max_latency_ratio: float | None = Field(
        default=1.25, gt=0, description="challenger's over champion's, in the same run"
    )
    max_size_ratio: float | None = Field(
        default=1.25, gt=0, description="of the model files, challenger's over champion's"
    )
    keep_classes: bool = Field(
        default=True, description="refuse a challenger that lacks a class of the champion's"
    )


def judge(
    comparison: Comparison,
    config: GateConfig,
    *,
    parity_difference: float,
    lost_classes: list[str],
) -> list[Verdict]:
    """The verdict of every rule that is on. Rules about the champion are silent without one.

    Args:
        parity_difference: largest in any probability, ONNX Runtime against PyTorch.
        lost_classes: that the champion knows and the challenger doesn't.
    """
    return [
        *_about_the_challenger(comparison, config, parity_difference),
        *_about_the_difference(comparison, config),
        *_about_previous_holdout(comparison, config),
        *_about_classes(comparison, config, lost_classes),
        *_about_cost(comparison, config),
    ]


def probability(p_value: float) -> str:
    """A p-value as people write it."""
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"


def _about_the_challenger(
    comparison: Comparison, config: GateConfig, parity_difference: float
) -> Iterator[Verdict]:
    new = comparison.challenger
    if (limit := config.min_held_out) is not None:
        yield Verdict.at_least("held-out images", comparison.images, limit, "{:d}")
    if (least := config.min_accuracy) is not None:
        yield Verdict.at_least("accuracy", new.accuracy, least, "{:.3f}")
    if config.better_than_largest_class:
        share = max(comparison.support.values()) / sum(comparison.support.values())
        yield Verdict(
            "accuracy beside always answering the largest class",
            f"{new.accuracy:.3f}",
            f"above {share:.3f}",
            new.accuracy > share,
        )
    if (most := config.max_calibration_error) is not None:
        yield Verdict.at_most("calibration error", new.calibration_error, most, "{:.3f}")
    if (most := config.max_parity_difference) is not None:
        yield Verdict.at_most("ONNX against PyTorch", parity_difference, most, "{:.1e}")


def _about_the_difference(comparison: Comparison, config: GateConfig) -> Iterator[Verdict]:
    if comparison.difference is None or comparison.interval is None or comparison.p_value is None:
        return
    if (least := config.min_difference) is not None:
        yield Verdict.at_least("accuracy difference", comparison.difference, least, "{:+.3f}")
    if (least := config.min_interval_low) is not None:
        low, high = comparison.interval
        yield Verdict(
            "interval of the difference",
            f"{low:+.3f} to {high:+.3f}",
            f"{least:+.3f} or more at its lower end",
            low >= least,
        )
    if (level := config.significance) is not None:
        worse = comparison.difference < 0
        yield Verdict(
            "McNemar's exact test",
            f"{probability(comparison.p_value)}, {'fewer' if worse else 'not fewer'} right",
            f"not fewer right, or p {level:g} or more",
            not worse or comparison.p_value >= level,
        )


def _about_previous_holdout(comparison: Comparison, config: GateConfig) -> Iterator[Verdict]:
    least, difference = config.min_known_difference, comparison.known_difference
    p_value, level = comparison.known_p_value, config.significance
    if least is None or difference is None or p_value is None:
        return
    yield Verdict(
        f"difference on the {comparison.previous_holdout} images of the previous holdout",
        f"{difference:+.3f}, {probability(p_value)}",
        f"{least:+.3f} or more" + (f", or p {level:g} or more" if level else ""),
        difference >= least or (level is not None and p_value >= level),
    )


def _about_classes(
    comparison: Comparison, config: GateConfig, lost_classes: list[str]
) -> Iterator[Verdict]:
    if comparison.champion is None:
        return
    if config.keep_classes:
        lost = ", ".join(lost_classes) or "none"
        yield Verdict("classes lost", lost, "none", not lost_classes)
    if (limit := config.max_class_drop) is not None:
        drops = {
            label: comparison.champion.recall[label] - comparison.challenger.recall[label]
            for label, images in comparison.support.items()
            if images >= config.min_class_images
        }
        if not drops:
            yield Verdict("largest drop of a class", "no class has enough images", "-", True)
            return
        worst = max(drops, key=lambda label: drops[label])
        yield Verdict(
            "largest drop of a class",
            f"{drops[worst]:.3f} ({worst})",
            f"{limit:.3f} or less",
            drops[worst] <= limit,
        )


def _about_cost(comparison: Comparison, config: GateConfig) -> Iterator[Verdict]:
    for rule, values, limit in (
        ("latency ratio", comparison.latency_ms, config.max_latency_ratio),
        ("size ratio", comparison.size_bytes, config.max_size_ratio),
    ):
        if limit is not None and "champion" in values:
            ratio = values["challenger"] / values["champion"]
            yield Verdict.at_most(rule, ratio, limit, "{:.2f}")
