"""All steps, each a process with a limit of its own, in the order of their importance.

    python -m benchmarks.gpu [--output FOLDER] [--rehearse] [--steps NAME,NAME]

FOLDER: results.jsonl as it comes, a log of each step, and gpu.json at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu.place import FULL, REHEARSAL, Place

# Seconds at most, each. On an H200 with 16 cores, facts took 8, prepare 51, sessions 59, training
# 97 and anchors 41.
LIMITS = {
    "facts": 30, "prepare": 90, "sessions": 80, "service": 170, "training": 130, "anchors": 60,
    "reliability": 90,
}  # fmt: skip
_TESTS_S = 150
_TAIL = 15
_MARK = "@pytest.mark.gpu"
_ROOT = Path(__file__).parents[2]


def main() -> int:
    options = _options()
    place = Place(options.output.resolve(), REHEARSAL if options.rehearse else FULL, "check")
    place.path.mkdir(parents=True, exist_ok=True)
    failed = []
    for name in options.steps:
        limit = LIMITS.get(name, _TESTS_S)
        command = _tests() if name == "tests" else _step(name, place, options.rehearse)
        if not run_step(place, name, command, limit * (10 if options.rehearse else 1)):
            failed.append(name)
    _write(place)
    print(f"figures and logs are in {place.path}; failed: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


def _step(name: str, place: Place, rehearse: bool) -> list[str]:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.gpu.step", name, str(place.path)]
    return [*command, "--rehearse"] if rehearse else command


def _tests() -> list[str]:
    """Those marked gpu, from the files that have any: others need packages that aren't there."""
    files = [
        file for file in sorted((_ROOT / "tests").rglob("test_*.py")) if _MARK in file.read_text()
    ]
    return [
        sys.executable, "-m", "pytest", "-m", "gpu", "-v", "-W", "ignore",
        "-p", "no:cacheprovider", *map(str, files),
    ]  # fmt: skip


def run_step(place: Place, name: str, command: Sequence[str], limit_s: float) -> bool:
    """Run a step to its end or its limit; its output is shown and kept."""
    print(f"\n== {name}, {limit_s:.0f} s at most", flush=True)
    started = time.perf_counter()
    log = place.path / f"{name}.log"
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, start_new_session=True,
            cwd=_ROOT, env=os.environ | {"BENTOML_DO_NOT_TRACK": "True"},
        )  # fmt: skip
        try:
            code: int | None = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # whatever it has started goes with it
                process.wait()
    place.add(f"step {name}", seconds=time.perf_counter() - started, exit_code=code)
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    print("\n".join(lines if code == 0 else lines[-_TAIL:]), flush=True)
    return code == 0


def _write(place: Place) -> None:
    rows = [json.loads(line) for line in place.results.read_text(encoding="utf-8").splitlines()]
    path = place.path / "gpu.json"
    path.write_text(json.dumps({"rows": rows}, indent=1) + "\n", encoding="utf-8")


def _options() -> argparse.Namespace:
    names = [*LIMITS, "tests"]
    parser = argparse.ArgumentParser(description="What this project does on an NVIDIA GPU.")
    parser.add_argument("--output", type=Path, default=Path("build/gpu-check"))
    parser.add_argument(
        "--rehearse", action="store_true", help="on a processor, as small as can be"
    )
    parser.add_argument("--steps", default=",".join(names), help="default: %(default)s")
    options = parser.parse_args()
    options.steps = options.steps.split(",")
    unknown = [name for name in options.steps if name not in names]
    if unknown:
        parser.error(f"no step '{unknown[0]}'; there are {', '.join(names)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
