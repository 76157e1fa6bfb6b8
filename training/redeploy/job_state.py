"""What a redeploy job has reached, kept so that a kill at any instant costs one step at most."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from models.files import staged_directory
from training.loop.run import write_json

_FILE = "job.json"
_REMOVED = ".removed-"


class JobState:
    """A job's directory and its `job.json`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._content: dict[str, Any] = json.loads((path / _FILE).read_bytes())

    @classmethod
    def create(
        cls,
        state: Path,
        *,
        fingerprint: str,
        config_digest: str,
        champion: str | None,
        ingested: dict[str, Any],
        write: Callable[[Path], None],
    ) -> JobState:
        """A new job, whole or not at all.

        Args:
            write: adds further files to its directory.
        """
        now = datetime.now(UTC)  # to the microsecond: names sort by time, and none comes twice
        path = state / "jobs" / f"{now:%Y%m%d-%H%M%S-%f}-{fingerprint[:6]}"
        with staged_directory(path) as staging:
            write(staging)
            content = {
                "id": path.name,
                "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
                "fingerprint": fingerprint,
                "config_digest": config_digest,
                "champion": champion,
                "collected": ingested,
                "steps": {},
                "outcome": None,
                "message": "",
            }
            write_json(staging / _FILE, content)
        return cls(path)

    @property
    def id(self) -> str:
        return str(self._content["id"])

    @property
    def fingerprint(self) -> str:
        return str(self._content["fingerprint"])

    @property
    def config_digest(self) -> str:
        return str(self._content["config_digest"])

    @property
    def champion(self) -> str | None:
        """The version that served when the job began."""
        champion: str | None = self._content["champion"]
        return champion

    @property
    def outcome(self) -> str | None:
        """None until the job is done."""
        outcome: str | None = self._content["outcome"]
        return outcome

    @property
    def message(self) -> str:
        return str(self._content["message"])

    @property
    def content(self) -> dict[str, Any]:
        """All of job.json."""
        return self._content

    def has(self, name: str) -> bool:
        return name in self._content["steps"]

    def step(self, name: str, do: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The result of a step: as recorded, or by doing it now."""
        if not self.has(name):
            started = time.monotonic()
            result = do()
            seconds = round(time.monotonic() - started, 2)
            self._content["steps"][name] = {"result": result, "seconds": seconds}
            self._write()
        recorded: dict[str, Any] = self._content["steps"][name]["result"]
        return recorded

    def finish(self, outcome: str, message: str) -> None:
        self._content |= {
            "outcome": outcome,
            "message": message,
            "ended_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        self._write()

    def _write(self) -> None:
        write_json(self.path / _FILE, self._content)


def is_in_job(run: Path) -> bool:
    """Whether a run is a job's."""
    return (run.parent / _FILE).is_file()


def unfinished_job(state: Path) -> JobState | None:
    """The job that was interrupted, if there is one (there is one at most)."""
    return next((job for job in _jobs(state) if job.outcome is None), None)


def finished_jobs(state: Path) -> list[JobState]:
    """The latest first."""
    return [job for job in _jobs(state) if job.outcome is not None]


def remove_old_jobs(state: Path, keep: int, runs: Collection[Path]) -> None:
    """Remove all finished jobs but the latest `keep`.

    Each is renamed first, so that none is half there; what a kill leaves of that goes next time.

    Args:
        runs: paths of runs; a job that one of them is in stays.
    """
    needed = {run.resolve() for run in runs}
    for job in finished_jobs(state)[keep:]:
        if not any(run.is_relative_to(job.path.resolve()) for run in needed):
            job.path.rename(job.path.with_name(f"{_REMOVED}{job.id}"))
    for path in (state / "jobs").glob(f"{_REMOVED}*"):
        shutil.rmtree(path, ignore_errors=True)


def _jobs(state: Path) -> list[JobState]:
    paths = (state / "jobs").glob(f"[!.]*/{_FILE}")  # a hidden one was killed while it was made
    return [JobState(path.parent) for path in sorted(paths, reverse=True)]
