"""The report of a shadow: what two versions said of the same images, on one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from models.monitoring.comparison import Comparison
from models.registry.shadowing import ShadowStatus
from models.registry.tallies import Picture
from training.reports.html_page import render

_MOST_PICTURES = 48
_MOST_CONFUSIONS = 20
_ABSENT = "-"


def write_shadow_report(status: ShadowStatus, pictures: Sequence[Picture], path: Path) -> None:
    """Write one HTML file.

    Args:
        pictures: images on which the two differ, the most different first; none where the service
            keeps no images.
    """
    seen = status.seen
    confusions = sorted(seen.confusions.items(), key=lambda item: -item[1])[:_MOST_CONFUSIONS]
    page = render(
        "shadow.html",
        version=status.shadow.version,
        against=status.shadow.against,
        hours=f"{status.shadow.age_hours:.1f}",
        outcome=status.outcome,
        is_stale=status.is_stale,
        numbers=_numbers(seen),
        verdicts=status.verdicts,
        sides=_sides(seen),
        confusions=[(pair, str(count)) for pair, count in confusions],
        pictures=pictures[:_MOST_PICTURES],
        workers=[
            (tally.worker, tally.state, str(tally.comparison.images), tally.reason)
            for tally in status.tallies
        ],
    )
    path.write_text(page, encoding="utf-8")


def _numbers(seen: Comparison) -> list[tuple[str, str]]:
    interval = seen.agreement_interval()
    span = "" if interval is None else f" (95%: {interval[0]:.1%} to {interval[1]:.1%})"
    numbers = [
        ("images that both answered", f"{seen.images:,}"),
        (f"same label{span}", _share(seen.agreement)),
        ("accepted alike", _share(seen.accepted_alike / seen.images if seen.images else None)),
        ("median time by production's", _number(seen.latency_ratio)),
        ("not answered", f"{seen.failed:,}"),
        ("dropped, of no room", f"{seen.dropped:,}"),
    ]
    if seen.labelled.difference is not None:
        name = f"accuracy difference, {seen.labelled.images} images with feedback"
        numbers.append((name, f"{seen.labelled.difference:+.1%}"))
    return numbers


def _sides(seen: Comparison) -> list[tuple[str, ...]]:
    both = (seen.production, seen.candidate)
    rows = [
        ("mean confidence", *(_share(seen.mean(side, "confidence")) for side in both)),
        ("accepted", *(_share(seen.mean(side, "accepted")) for side in both)),
        ("mean distance", *(_number(seen.mean(side, "distance")) for side in both)),
        ("median ms of one image", *(_ms(side.alone.median_s) for side in both)),
    ]
    if seen.labelled.images:
        labelled = seen.labelled
        right = (labelled.both + labelled.production, labelled.both + labelled.candidate)
        rows.append(("right by feedback", *(_share(n / labelled.images) for n in right)))
    return rows


def _share(value: float | None) -> str:
    return _ABSENT if value is None else f"{value:.1%}"


def _number(value: float | None) -> str:
    return _ABSENT if value is None else f"{value:.2f}"


def _ms(seconds: float | None) -> str:
    return _ABSENT if seconds is None else f"{1e3 * seconds:.1f}"
