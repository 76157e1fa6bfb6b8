"""`vgg19 drift`: images beside a model's validation images."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import panels
from cli.common import ANSWER_IS_NO, bundle_in, reporter, say
from models.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from models.bundle.bundle import Bundle
    from models.monitoring.watch import Watch
    from serving.offline.measured import MeasuredFiles, Row
    from serving.settings import Settings

app = typer.Typer()

_PICTURES = 48
# The test's order of images; fixed, so that the same images give the same verdict.
_SEED = 0


class DriftError(UserError):
    """There is nothing to compare with."""


@app.command(rich_help_panel=panels.PRODUCTION)
def drift(
    model: Annotated[
        str,
        typer.Argument(
            metavar="BUNDLE", help="production, latest, a version, a tag, or a bundle's directory"
        ),
    ],
    sources: Annotated[
        list[str],
        typer.Argument(
            help="folders of images (also captured ones), patterns, or a table of 'vgg19 predict'"
        ),
    ],
    page: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("drift.html"),
    json: Annotated[
        Path | None, typer.Option("--json", help="JSON file to write: 'drift' of GET /drift.")
    ] = None,
) -> None:
    """See how images differ from those that a model was validated on, and which differ most.

    Example: `vgg19 drift production captured`

    A folder is classified here, on the service's own session. Of a table, images are looked at
    only for their size, format and brightness, as far as they are still there.

    Exit code 3 if they differ for sure; 1 is an error.
    """
    import numpy as np

    from models.files import json_text, staged_file
    from models.monitoring.influence import most_influential
    from models.monitoring.reference import read_reference
    from models.monitoring.summary import summarise
    from models.monitoring.watch import Rules, Watch
    from serving.settings import load_settings
    from training.reports.drift import write_drift_page

    settings = load_settings()
    bundle = _open(settings, model)
    reference = read_reference(bundle)
    if reference is None:
        raise DriftError(
            f"{model} has no reference: it was trained before there was any; train it again"
        )
    found = _measured(settings, bundle, sources)
    labels = bundle.spec.labels
    rules = Rules(settings.drift_false_alarm_rate, settings.watched_features)
    watch = Watch(reference, labels, len(found.rows), rules, np.random.default_rng(_SEED))
    _add(watch, found.rows)
    summary = summarise(watch, time.time())
    verdict = _verdict(summary, len(found.rows))
    write_drift_page(
        page,
        model=model,
        verdict=verdict,
        summary=summary,
        files=found.files,
        unread=len(found.unread),
        influential=most_influential(watch, found.rows, _PICTURES),
    )
    if json is not None:
        with staged_file(json) as staging:
            staging.write_text(json_text(summary), encoding="utf-8")
    say(verdict)
    for file, why in found.unread[:5]:
        say(f"  could not be read: {file}: {why}")
    say(f"page: {page}")
    if summary["alarm"] is not None:
        raise typer.Exit(ANSWER_IS_NO)


def _open(settings: Settings, model: str) -> Bundle:
    """A directory, or a registered model."""
    from models.bundle.bundle import inspect_bundle
    from serving.loading import open_model, use_store

    if Path(model).is_dir():
        return inspect_bundle(bundle_in(Path(model)))
    use_store(settings)
    return open_model(settings, model)


def _measured(settings: Settings, bundle: Bundle, sources: list[str]) -> MeasuredFiles:
    """What is measured of each image."""
    from serving.engine.session import checked_session
    from serving.loading import session_options, worker_cores
    from serving.offline.measured import (
        find_images,
        gather,
        is_table,
        measure_files,
        measure_table,
    )

    threads = worker_cores(settings)
    if len(sources) == 1 and is_table(sources[0]):
        return gather(measure_table(Path(sources[0]), bundle.spec, threads=threads))
    files = find_images(sources)
    session = checked_session(bundle, session_options(settings, worker_index=1))
    rows = measure_files(
        files, session.judge, bundle.spec, bundle.acceptance(),
        batch_size=session.max_batch_size, threads=threads,
    )  # fmt: skip
    with reporter().progress("classifying", len(files), unit="images") as advance:
        return gather(_counted(rows, advance))


def _counted(rows: Iterator[Row], advance: Callable[[int, str], object]) -> Iterator[Row]:
    for row in rows:
        advance(1, "")
        yield row


def _add(watch: Watch, rows: NDArray[np.float64]) -> None:
    """All images, in a random order, as many at once as are tested."""
    import numpy as np

    from models.monitoring.watch import MOST_TESTED

    order = np.random.default_rng(_SEED).permutation(len(rows))
    for first in range(0, len(rows), MOST_TESTED):
        some = rows[order[first : first + MOST_TESTED]]
        watch.add(watch.layout.count(some), len(some), time.time())


def _verdict(summary: dict[str, Any], images: int) -> str:
    if summary["alarm"] is None:
        return (
            f"no alarm: no certain difference between {images:,} images and "
            f"{summary['reference_images']:,} validation images"
        )
    titles = [
        f"{one['title']} (PSI {one['windows']['recent']['psi']:.2f})"
        for one in summary["features"]
        if one["alarm_at"] is not None
    ]
    return (
        f"{images:,} images differ from {summary['reference_images']:,} validation images in "
        f"{', '.join(titles)}"
    )
