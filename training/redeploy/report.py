"""The report of a redeploy job: champion against challenger on one page, and the same as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from models.files import json_text
from training.data.checks import Sample
from training.data.listing import SPLITS
from training.redeploy.compare import Comparison
from training.redeploy.gate import probability
from training.redeploy.job_state import JobState
from training.reports.html_page import render

_MOST_PICTURES = 48


def disagreements(comparison: Comparison, held_out: Sequence[Sample]) -> list[dict[str, Any]]:
    """The images for which the two have different labels, the champion's losses first."""
    old, new = comparison.champion, comparison.challenger
    if old is None:
        return []
    rows = [
        {
            "path": str(sample.path),
            "label": sample.label,
            "champion": old.answer(i),
            "champion_confidence": float(old.confidence[i]),
            "challenger": new.answer(i),
            "challenger_confidence": float(new.confidence[i]),
        }
        for i, sample in enumerate(held_out)
        if old.answer(i) != new.answer(i)
    ]
    return sorted(rows, key=lambda row: (row["champion"] != row["label"], row["path"]))


def write_redeploy_report(job: JobState, outcome: str, message: str) -> Path:
    """Write `report.html` and `report.json` into the job's directory; returns the former's path."""
    content = job.content | {"outcome": outcome, "message": message}
    (job.path / "report.json").write_text(json_text(content), encoding="utf-8")
    report = job.path / "report.html"
    report.write_text(_page(content), encoding="utf-8")
    return report


def _page(content: dict[str, Any]) -> str:
    gate = content["steps"]["gate"]["result"]
    rows = gate["disagreements"]
    return render(
        "redeploy.html",
        id=content["id"],
        outcome=content["outcome"],
        message=content["message"],
        champion=content["champion"],
        version=content["steps"]["register"]["result"]["version"],
        comparison=gate["comparison"],
        numbers=_numbers(gate["comparison"]),
        verdicts=gate["verdicts"],
        class_rows=_class_rows(gate["comparison"]),
        disagreements=rows[:_MOST_PICTURES],
        more_disagreements=len(rows[_MOST_PICTURES:]),
        collected=content["collected"],
        most_pictures=_MOST_PICTURES,
        data_rows=_data_rows(content["collected"]["counts"]),
        step_rows=[(name, f"{step['seconds']:.1f}") for name, step in content["steps"].items()],
    )


def _numbers(comparison: dict[str, Any]) -> list[tuple[str, str]]:
    old, new = comparison["champion"], comparison["challenger"]
    numbers = [("accuracy of the challenger", f"{new['accuracy']:.1%}")]
    if old is not None:
        low, high = comparison["interval_95"]
        numbers += [
            ("accuracy of the champion", f"{old['accuracy']:.1%}"),
            (f"difference (95%: {low:+.1%} to {high:+.1%})",
             f"{comparison['accuracy_difference']:+.1%}"),
            ("McNemar's exact test", probability(comparison["mcnemar_p"])),
        ]  # fmt: skip
    numbers.append(("calibration error of the challenger", f"{new['calibration_error']:.3f}"))
    return numbers + [
        (f"ms an image, {name}", f"{value:.1f}") for name, value in comparison["latency_ms"].items()
    ]


def _class_rows(comparison: dict[str, Any]) -> list[Sequence[str]]:
    old, new = comparison["champion"], comparison["challenger"]
    rows: list[Sequence[str]] = []
    for label, images in comparison["support"].items():
        recall = new["recall"][label]
        before = "" if old is None else f"{old['recall'][label]:.3f}"
        change = "" if old is None else f"{recall - old['recall'][label]:+.3f}"
        rows.append((label, str(images), before, f"{recall:.3f}", change))
    return rows


def _data_rows(counts: dict[str, dict[str, int]]) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = [
        (label, *(str(counts[split][label]) for split in SPLITS)) for label in counts["train"]
    ]
    return [*rows, ("all", *(str(sum(counts[split].values())) for split in SPLITS))]
