"""What large data sets cost: 1,000 classes, and 1,000,000 listed images.

    python -m benchmarks.training.sizes

Each part runs in a process of its own, whose seconds of the processor (so that it matters little
what else runs) and peak memory are told:

- the commands from `train` to `promote` on 1,000 classes of 8 images of 32 px, with a thin VGG-19
  (all layers, a sixteenth as wide), so that what is measured is not the network;
- the distances' fit at the width of the real network, 10,000 images of 1,000 classes;
- what training and redeploy do with a table of 1,000,000 images before they open one, and with
  each epoch's order. The images are made up: they are listed, and have hashes, but are never read.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.report import save
from testing.images import coloured_pixels, encode
from training.data.checks import Sample
from training.data.image_data import ImageData
from training.data.sampling import EpochBatches, epoch_order
from training.data.sources import find_images
from training.data.splits import SplitRule, split_by_hash
from training.evaluate.feature_statistics import fit, with_limit
from training.loop.run import write_json

_CLASSES, _IMAGES_OF_A_CLASS = 1000, 8
_LISTED = 1_000_000
_FEATURES = 4096


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--part", choices=_PARTS, help="run it in this process")
    part = parser.parse_args().part
    if part is not None:
        print(json.dumps(_PARTS[part]()))
        return
    rows: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory(prefix="vgg19-sizes-") as directory:
        rows |= _pipeline(Path(directory))
    for name in _PARTS:
        rows[name] = _measured([sys.executable, "-m", "benchmarks.training.sizes", "--part", name])
        print(name, json.dumps(rows[name]), flush=True)
    save("sizes", rows)


def _pipeline(place: Path) -> dict[str, dict[str, object]]:
    """The commands of the README on 1,000 classes."""
    data, run = place / "data", place / "run"
    for number in range(_CLASSES * _IMAGES_OF_A_CLASS):
        folder = data / f"class {number % _CLASSES:04}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.png").write_bytes(encode(coloured_pixels(number)))
    environment = {"BENTOML_HOME": str(place / "bentoml"), "XDG_CACHE_HOME": str(place / "cache")}
    train = (
        f"--data {data} --output {run} --weights none --strategy fc --views 1 "
        "--image-size 32 --epochs 2 --batch-size 64"
    )
    rows = {}
    for command in (f"train {train}", f"export {run}", f"register {run}", "promote latest --force"):
        name = command.split()[0]
        arguments = [sys.executable, "-m", "testing.thin_cli", *command.split()]
        rows[name] = _measured(arguments, environment)
        print(name, json.dumps(rows[name]), flush=True)
    sizes = {file.name: file.stat().st_size for file in sorted(run.glob("*.*")) if file.is_file()}
    rows["bytes of the run's files"] = dict(sizes)
    print(json.dumps(sizes), flush=True)
    return rows


def _measured(arguments: list[str], environment: dict[str, str] | None = None) -> dict[str, object]:
    """Run it; what the process took, and what it says of itself as JSON."""
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, env=os.environ | (environment or {})
    ) as process:
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(arguments[2:])} ended with {process.returncode}")
    row: dict[str, object] = {
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_mb": round(usage.ru_maxrss / 1024),
    }
    if output.startswith(b"{"):
        row |= json.loads(output)
    return row


def _distances() -> dict[str, float]:
    count = 10 * _CLASSES
    targets = np.arange(count) % _CLASSES
    rng = np.random.default_rng(0)
    features = rng.standard_normal((count, _FEATURES), np.float32)
    features += rng.standard_normal((_CLASSES, _FEATURES), np.float32)[targets]
    seconds: dict[str, float] = {}
    with _timed(seconds, "fit"):
        statistics = fit(features, targets, _CLASSES)
    with _timed(seconds, "distances"):
        with_limit(statistics, features)
    return seconds


def _listing() -> dict[str, float]:
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="vgg19-sizes-") as directory:
        table = Path(directory, "all.csv")
        with table.open("w") as file:
            file.write("path,label\n")
            file.writelines(f"images/{n:07}.jpg,class {n % 1000}\n" for n in range(_LISTED))
        with _timed(seconds, "read the table"):
            files = find_images(table).files
        samples = [
            Sample(f.path, f.label, "train", hashlib.sha256(f"{i}".encode()).hexdigest())
            for i, f in enumerate(files)
        ]
        with _timed(seconds, "split"):
            samples = split_by_hash(samples, SplitRule())
        labels = tuple(sorted({sample.label for sample in samples}))
        data = ImageData(table.parent, labels, tuple(samples), ())
        with _timed(seconds, "fingerprint"):
            data.fingerprint()
        with _timed(seconds, "write data.json"):
            write_json(table.with_name("data.json"), data.describe())
        with _timed(seconds, "order of an epoch, and its batches"):
            order = epoch_order(len(data.split("train")), seed=0, epoch=1)
            assert sum(map(len, EpochBatches(order, 32))) == len(order)
    return seconds


@contextmanager
def _timed(seconds: dict[str, float], what: str) -> Iterator[None]:
    started = time.process_time()
    yield
    seconds[what] = round(time.process_time() - started, 1)


_PARTS = {"distances": _distances, "listing": _listing}

if __name__ == "__main__":
    main()
