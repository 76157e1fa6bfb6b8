"""`vgg19 predict`: classifies a folder of images offline. `python -m serving.predict`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import track

from models import store
from models.bundle import Bundle
from models.errors import UserError
from serving.offline import classify_files
from serving.prediction_files import Progress, as_row, check_output, columns, find_files
from serving.ray_engine import classify_on_ray
from serving.runtime import open_model, session_options, use_store, worker_cores
from serving.session import Session, SessionOptions, variant_to_run
from serving.settings import Settings, load_settings

_NAMED = 5  # unreadable files that the terminal names; the table has all


@dataclass(frozen=True)
class Engine:
    """What classifies. name: local, this process; ray, see `serving.ray_engine`. workers: of Ray;
    0: one on each machine."""

    name: Literal["local", "ray"] = "local"
    workers: int = 0


def predict(
    sources: Sequence[str],
    output: Path,
    top_k: int,
    settings: Settings,
    console: Console,
    engine: Engine = Engine(),
) -> None:
    """Classify the files of `sources` into the table `output`, or go on where it was interrupted.

    Raises:
        PredictError: nothing to classify, or the table can't be written.
        UserError: the model can't be run here.
    """
    check_output(output)
    files = find_files(sources)
    use_store(settings)
    version = store.resolve(settings.model)
    bundle = open_model(settings, version)
    options = session_options(settings, worker_index=1)
    variant = variant_to_run(bundle, options)
    bundle.check_graph(variant)
    labels = min(top_k, len(bundle.spec.labels))
    made_with = {
        "model": version, "variant": variant.name if variant else "float32", "top_k": labels
    }  # fmt: skip
    with Progress(output, made_with) as progress:
        left = [file for file in files if file not in progress.done]
        if progress.done:
            console.print(f"going on: {len(files) - len(left):,} of {len(files):,} are done")
        rows: Iterator[dict[str, Any]]
        if engine.name == "ray":
            rows = classify_on_ray(left, settings, version, top_k=labels, workers=engine.workers)
        else:
            rows = _classify_here(left, settings, bundle, options, labels)
        started = time.monotonic()
        for row in track(rows, "classifying", len(left), console=console):
            progress.add_row(row)
        seconds = time.monotonic() - started
        errors = [row for row in progress.rows() if "error" in row]
        progress.finish(columns(labels))
    rate = f" ({len(left) / seconds:.1f} images/s)" if left else ""
    _say(console, f"{len(files):,} images by {store.MODEL_NAME}:{version} in {output}{rate}")
    _tell(console, errors)


def _classify_here(
    files: Sequence[str], settings: Settings, bundle: Bundle, options: SessionOptions, top_k: int
) -> Iterator[dict[str, Any]]:
    found = classify_files(
        files,
        Session(bundle, options).judge,
        bundle.spec,
        bundle.acceptance(),
        top_k=top_k,
        batch_size=settings.max_batch_size,
        threads=worker_cores(settings),
    )
    return map(as_row, found)


def _tell(console: Console, errors: list[dict[str, Any]]) -> None:
    if errors:
        _say(console, f"{len(errors):,} could not be read, the table says why:")
    for row in errors[:_NAMED]:
        _say(console, f"  {row['file']}: {row['error']}")
    if len(errors) > _NAMED:
        _say(console, f"  and {len(errors) - _NAMED:,} more")


def _say(console: Console, line: str) -> None:
    console.print(line, soft_wrap=True, markup=False, highlight=False)


def main() -> None:
    """Arguments: OUTPUT TOP_K ENGINE WORKERS SOURCE..., as `vgg19 predict` checked them."""
    output, top_k, name, workers, *sources = sys.argv[1:]
    engine = Engine("ray" if name == "ray" else "local", int(workers))
    try:
        predict(sources, Path(output), int(top_k), load_settings(), Console(), engine)
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print(f"interrupted; the same command goes on with {output}", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
