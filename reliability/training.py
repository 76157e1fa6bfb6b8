"""`vgg19 train` killed with SIGKILL at random instants, and resumed.

    python -m reliability.training --times 20 --seed 0

trains a thin VGG-19 (all layers, a sixteenth as wide) that saves its state after every step, once
undisturbed, then again and again until it is killed: in turn the moment that a file is seen
half-written, at a random instant between two of them, and before the first. Then
`vgg19 evaluate` must answer or say in one line why not, and `vgg19 train --resume` (or, where there
is nothing to resume, the same command) must end with the weights of the undisturbed run, bit for
bit, and leave nothing of the killed one's files.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from reliability.outcomes import FAILED, BrokenPromiseError, Outcome, report
from testing.images import write_image_folder
from training.loop.checkpoint import weights_digest
from training.loop.run import Run

_ROOT = Path(__file__).parents[1]
_TIMEOUT_S = 300
_TRAIN = (
    "train", "--data", "data", "--weights", "none", "--strategy", "head", "--image-size", "32",
    "--epochs", "3", "--batch-size", "4", "--config", "config.yaml",
)  # fmt: skip
_CONFIG = "save_every_steps: 1\nunfreeze: [features.34]\nmixup: 0.2\nema_decay: 0.9\n"
_NOTHING_SAVED = ("is not a run", "there is no checkpoint", "is not a finished run")


@dataclass(frozen=True)
class Undisturbed:
    """What a run comes to that nobody kills. `writes`: files that were seen half-written."""

    digests: tuple[str, str]
    seconds_a_write: float
    writes: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vgg19-reliability-") as directory:
        place = Path(directory)
        kept = report("SIGKILL in train", trials(place, options.times, options.seed))
    sys.exit(0 if kept else 1)


def trials(place: Path, times: int, seed: int) -> Iterator[Outcome]:
    """Train in `place` and kill it, `times` times."""
    write_image_folder(place / "data", {"blue": 14, "red": 14})
    (place / "config.yaml").write_text(_CONFIG)
    undisturbed = _train_undisturbed(place)
    randomness = random.Random(seed)  # noqa: S311
    done = 0
    for number in range(3 * times):
        run = Run(place / f"run{number}")
        process = _start(place, *_TRAIN, "--output", run.path.name)
        writes = randomness.randint(1, undisturbed.writes)
        seconds = randomness.uniform(0, undisturbed.seconds_a_write)
        # In turn: in a write, between two, and before the first.
        moment = ((writes, 0.0), (writes, seconds), (0, seconds))[done % 3]
        when = _wait(process, run, *moment)
        if process.poll() is not None:  # it was quicker than the undisturbed one
            process.communicate()
            continue
        process.kill()
        process.communicate()
        yield _outcome(place, run, undisturbed, when)
        done += 1
        if done == times:
            return


def _train_undisturbed(place: Path) -> Undisturbed:
    run = Run(place / "undisturbed")
    process = _start(place, *_TRAIN, "--output", run.path.name)
    _wait_for(process, run.path.exists)
    began, written, writes = time.monotonic(), set[Path](), 0
    while process.poll() is None:
        now = _half_written(run)
        writes += len(now - written)
        written = now
    seconds = time.monotonic() - began
    _check(process.returncode == 0, process.communicate()[0])
    writes = max(writes, 1)
    return Undisturbed(_digests(run), seconds / writes, writes)


def _wait(process: subprocess.Popen[str], run: Run, writes: int, seconds: float) -> str:
    """Until so many files were seen half-written, and then so long; in words when that is."""
    _wait_for(process, run.path.exists)
    written, seen = set[Path](), 0
    while seen < writes and process.poll() is None:
        now = _half_written(run)
        seen += len(now - written)
        written = now
    time.sleep(seconds)
    return f"{seconds * 1000:.0f} ms after write {writes}" if seconds else f"in write {writes}"


def _outcome(place: Path, run: Run, undisturbed: Undisturbed, when: str) -> Outcome:
    try:
        return Outcome(_resume(place, run, undisturbed), f"killed {when}")
    except BrokenPromiseError as error:
        return Outcome(FAILED, f"killed {when}: {error}")


def _resume(place: Path, run: Run, undisturbed: Undisturbed) -> str:
    """Do what a user does after a crash; in one word what it was."""
    left = len(_half_written(run))
    ended, saved, made = run.report.exists(), run.state.exists(), run.config.exists()
    _evaluate(place, run)
    if not ended:
        again = ("train", "--resume") if made else (*_TRAIN, "--output")
        _run(place, *again, run.path.name)
    _check(_digests(run) == undisturbed.digests, "the weights differ")
    rest = [*_half_written(run), *place.glob(f".{run.path.name}-*")]
    _check(ended or not rest, f"left behind: {rest}")
    what = (
        "had ended" if ended else "resumed identical" if saved else "nothing saved, started again"
    )
    return f"{what}, file half-written" if left else what


def _evaluate(place: Path, run: Run) -> None:
    """Must answer, or say in one line that there is nothing yet."""
    process = _start(place, "evaluate", run.path.name)
    output, _ = process.communicate(timeout=_TIMEOUT_S)
    last = output.strip().rpartition("\n")[2]
    said = last.startswith("error: ") and any(words in last for words in _NOTHING_SAVED)
    fine = said and not run.best.exists() if process.returncode else run.best.exists()
    _check(fine and "Traceback" not in output, f"vgg19 evaluate: {output}")


def _half_written(run: Run) -> set[Path]:
    return {
        path
        for folder in (run.path, run.best.parent)
        if folder.is_dir()
        for path in _entries(folder)
        if path.name.startswith(".")
    }


def _entries(folder: Path) -> list[Path]:
    return [folder / name for name in os.listdir(folder)]  # noqa: PTH208  # it is the fastest


def _digests(run: Run) -> tuple[str, str]:
    return weights_digest(run.best), weights_digest(run.last)


def _start(place: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = os.environ | {
        "PYTHONPATH": str(_ROOT),
        "XDG_CACHE_HOME": str(place / "cache"),
        "COLUMNS": "160",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "testing.thin_cli", *arguments],
        cwd=place, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def _run(place: Path, *arguments: str) -> None:
    process = _start(place, *arguments)
    output, _ = process.communicate(timeout=_TIMEOUT_S)
    _check(process.returncode == 0, f"vgg19 {' '.join(arguments)}: {output}")


def _wait_for(process: subprocess.Popen[str], happened: Callable[[], bool]) -> None:
    while not happened():
        if process.poll() is not None:
            raise BrokenPromiseError(f"it ended: {process.communicate()[0]}")
        time.sleep(0.001)


def _check(kept: bool, otherwise: str) -> None:
    if not kept:
        raise BrokenPromiseError(otherwise)


if __name__ == "__main__":
    main()
