"""The page of `vgg19 drift`: images beside a model's reference."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from models.files import staged_file
from models.monitoring.influence import Influence
from training.reports.html_page import render

Json = dict[str, Any]


def write_drift_page(
    path: Path,
    *,
    model: str,
    verdict: str,
    summary: Json,
    files: Sequence[str],
    unread: int,
    influential: Sequence[Influence],
) -> None:
    """Write it.

    Args:
        summary: see `models.monitoring.summary`.
        files: names, by the rows of `influential`. unread: how many couldn't be read.
    """
    page = render(
        "drift.html",
        model=model,
        verdict=verdict,
        is_alarm=summary["alarm"] is not None,
        numbers=_numbers(summary, unread),
        rows=[_row(one) for one in summary["features"]],
        features=[one for one in summary["features"] if one["windows"]["recent"] is not None],
        images=[
            {"path": files[one.row], "index": f"{one.index:.4f}", "places": one.places}
            for one in influential
        ],
    )
    with staged_file(path) as staging:
        staging.write_text(page, encoding="utf-8")


def _numbers(summary: Json, unread: int) -> list[tuple[str, str]]:
    accepted = summary["accepted"]
    smallest = min(one["p_value"] for one in summary["features"] if one["raises_alarm"])
    return [
        ("images", f"{summary['images']:,}"),
        ("could not be read", f"{unread:,}"),
        ("validation images", f"{summary['reference_images']:,}"),
        ("p-value of no change", f"{smallest:.2g}"),
        ("accepted, validation images", _percent(accepted["reference"])),
        ("accepted, these images", _percent(accepted["recent"])),
    ]


def _row(one: Json) -> Json:
    found = one["windows"]["recent"]
    values = ("psi", "psi_noise", "jensen_shannon")
    return {
        "title": one["title"],
        "cells": ["" if found is None else f"{found[name]:.3f}" for name in values],
        "p": f"{one['p_value']:.2g}",
        "is_alarm": one["alarm_at"] is not None,
    }


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"
