"""What a `Watch` says, as `GET /drift`, the metrics and the page have it. docs/drift.md describes
each key."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.monitoring.distances import psi_parts
from models.monitoring.features import NAMES
from models.monitoring.watch import FeatureWatch, Watch

# Groups that are told of a feature without order: those that moved most; the rest is summed up.
_MOST_GROUPS = 20
OTHER = "other"
_ACCEPTED = NAMES.index("accepted")

Json = dict[str, Any]


def summarise(watch: Watch, now: float) -> Json:
    """All of it; times are in seconds since 1970."""
    recent, recent_images = watch.windows.recent()
    day, day_images = watch.windows.day()
    windows = {"recent": recent, "day": day}
    hours, rows = watch.history.since_first()
    alarms = [one.alarm_at for one in watch.features if one.alarm_at is not None]
    return {
        "since": watch.since,
        "updated": now,
        "images": watch.images,
        "reference_images": watch.reference_images,
        "windows": {"recent": recent_images, "day": day_images},
        "false_alarm_rate": watch.rules.false_alarm_rate,
        "alarm": {"at": min(alarms), "features": watch.alarms} if alarms else None,
        "accepted": _accepted(watch.features[_ACCEPTED], windows),
        "features": [_feature(one, windows, watch) for one in watch.features if one.is_there],
        "history": {
            "hours": hours,
            "images": [_number(value) for value in rows[:, 0]],
            "psi": {
                one.feature.name: [_number(value) for value in rows[:, 1 + column]]
                for column, one in enumerate(watch.features)
                if one.is_there
            },
        },
    }


def _accepted(one: FeatureWatch, windows: dict[str, NDArray[np.int64]]) -> Json:
    shares = {name: _share(counts[one.part]) for name, counts in windows.items()}
    return {"reference": _share(one.reference), **shares}


def _share(counts: NDArray[np.int64]) -> float | None:
    """Of "yes" among "no" and "yes"; None where there are none."""
    return float(counts[1] / counts.sum()) if counts.any() else None


def _feature(one: FeatureWatch, windows: dict[str, NDArray[np.int64]], watch: Watch) -> Json:
    compared = {name: one.compare(counts) for name, counts in windows.items()}
    return {
        "name": one.feature.name,
        "title": one.feature.title,
        "ordered": one.feature.is_ordinal,
        "raises_alarm": one.may_alarm,
        "alarm_at": one.alarm_at,
        "evidence": one.test.evidence,
        "most_evidence": one.test.most_evidence,
        "needed_evidence": watch.needed_evidence,
        "p_value": _p_value(one, watch),
        "images_tested": one.test.images,
        "windows": {
            name: None if found is None else vars(found) for name, found in compared.items()
        },
        "groups": _groups(one, windows),
    }


def _p_value(one: FeatureWatch, watch: Watch) -> float:
    """Of "nothing has changed", corrected for the number of features, and valid at all times: where
    it has once been the false-alarm rate, there is an alarm."""
    most = one.test.most_evidence
    return min(1.0, watch.needed_evidence * watch.rules.false_alarm_rate / most) if most else 1.0


def _groups(one: FeatureWatch, windows: dict[str, NDArray[np.int64]]) -> list[Json]:
    reference = one.groups.sums(one.reference)
    counts = {name: one.groups.sums(found[one.part]) for name, found in windows.items()}
    shown = list(range(len(reference)))
    if not one.feature.is_ordinal and len(shown) > _MOST_GROUPS:
        moved = psi_parts(counts["recent"], reference)
        shown = sorted(np.argsort(-moved, kind="stable")[: _MOST_GROUPS - 1].tolist())
    columns = {"reference": reference, **counts}
    rows = [
        {"name": one.groups.names[number]}
        | {name: _of_total(column, column[number]) for name, column in columns.items()}
        for number in shown
    ]
    if len(shown) < len(reference):
        rest = np.delete(np.arange(len(reference)), shown)
        rows.append(
            {"name": OTHER}
            | {name: _of_total(column, column[rest].sum()) for name, column in columns.items()}
        )
    return rows


def _of_total(column: NDArray[np.int64], count: np.int64) -> float | None:
    total = column.sum()
    return float(count / total) if total else None


def _number(value: np.float64) -> float | None:
    return None if np.isnan(value) else float(value)
