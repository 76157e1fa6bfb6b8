"""`vgg19 predict`: classifies a folder of images offline. `python -m serving.offline.predict`."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NoReturn, Protocol

from rich.console import Console
from rich.progress import track
from rich.text import Text

from models.bundle.bundle import Bundle
from models.bundle.variants import Variant
from models.errors import UserError
from models.registry import store
from models.text import escape_unencodable, shown
from serving.engine.session import checked_session, what_to_run
from serving.loading import open_model, session_options, use_store, worker_cores
from serving.offline.files import classify_files, find_files
from serving.offline.ray_engine import RayEngine, own_terminal
from serving.offline.table import Progress, as_row, check_output, columns
from serving.settings import Settings, load_settings

_NAMED = 5  # unreadable files that the terminal names; the table has all


class Engine(Protocol):
    """Where files are classified."""

    def variant(self, bundle: Bundle) -> Variant | None:
        """That will be run; None: float32. Raises UserError if that can't be."""

    def classify(
        self, files: Sequence[str], version: str, bundle: Bundle, top_k: int
    ) -> Generator[dict[str, Any]]:
        """A row of the table for each file, in any order. Raises UserError if the model can't be
        run."""


class LocalEngine:
    """Classifies in this process, in the files' order."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._options = session_options(settings, worker_index=1)

    def variant(self, bundle: Bundle) -> Variant | None:
        return what_to_run(bundle, self._options).variant

    def classify(
        self, files: Sequence[str], version: str, bundle: Bundle, top_k: int
    ) -> Generator[dict[str, Any]]:
        session = checked_session(bundle, self._options)
        found = classify_files(
            files,
            session.judge,
            bundle.spec,
            bundle.acceptance(),
            top_k=top_k,
            batch_size=session.max_batch_size,
            threads=worker_cores(self._settings),
        )
        yield from map(as_row, found)


def predict(
    sources: Sequence[str],
    output: Path,
    top_k: int,
    settings: Settings,
    console: Console,
    engine: Engine,
) -> None:
    """Classify the files of `sources` into the table `output`, or go on where it was interrupted.

    Raises:
        PredictError: nothing to classify, or the table can't be written.
        UserError: the model can't be run here.
    """
    check_output(output)
    files = find_files(sources, lambda line: _say(console, line))
    use_store(settings)
    version = store.resolve(settings.model)
    bundle = open_model(settings, version)
    variant = engine.variant(bundle)
    labels = min(top_k, len(bundle.spec.labels))
    made_with = {
        "model": version, "variant": variant.name if variant else "float32", "top_k": labels
    }  # fmt: skip
    with Progress(output, made_with) as progress:
        left = [file for file in files if file not in progress.done]
        if progress.done:
            console.print(f"going on: {len(files) - len(left):,} of {len(files):,} are done")
        started = time.monotonic()
        with closing(engine.classify(left, version, bundle, labels)) as rows:
            for row in track(rows, "classifying", len(left), console=console):
                progress.add_row(row)
        seconds = time.monotonic() - started
        errors = [row for row in progress.rows() if "error" in row]
        progress.finish(columns(labels))
    rate = f" ({len(left) / seconds:.1f} images/s)" if left else ""
    _say(console, f"{len(files):,} images by {store.MODEL_NAME}:{version} in {output}{rate}")
    _tell(console, errors)


def _tell(console: Console, errors: list[dict[str, Any]]) -> None:
    if errors:
        _say(console, f"{len(errors):,} could not be read, the table says why:")
    for row in errors[:_NAMED]:
        _say(console, f"  {row['file']}: {row['error']}")
    if len(errors) > _NAMED:
        _say(console, f"  and {len(errors) - _NAMED:,} more")


def _say(console: Console, line: str) -> None:
    console.print(Text(shown(line)), soft_wrap=True, highlight=False)


class _Terminated(KeyboardInterrupt):
    """SIGTERM; unwinds as Ctrl-C does."""


def _terminate(*_: object) -> NoReturn:
    raise _Terminated


def main() -> None:
    """Arguments: OUTPUT TOP_K ENGINE WORKERS SOURCE..., as `vgg19 predict` checked them."""
    output, top_k, engine, workers, *sources = sys.argv[1:]
    escape_unencodable()
    signal.signal(signal.SIGTERM, _terminate)
    try:
        settings = load_settings()
        if engine == "ray":
            with own_terminal() as console:
                on_ray = RayEngine(settings, int(workers))
                predict(sources, Path(output), int(top_k), settings, console, on_ray)
        else:
            here = LocalEngine(settings)
            predict(sources, Path(output), int(top_k), settings, Console(), here)
    except (UserError, OSError) as error:
        sys.exit(shown(f"error: {error}"))
    except KeyboardInterrupt as error:
        told = f"interrupted; run the same command again to continue with {output}"
        print(shown(told), file=sys.stderr)
        sys.exit(128 + (signal.SIGTERM if isinstance(error, _Terminated) else signal.SIGINT))


if __name__ == "__main__":
    main()
