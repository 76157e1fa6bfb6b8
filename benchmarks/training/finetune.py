"""Fine-tuning VGG-19, side by side: the tutorial's loop, this project, and other tools.

    python -m benchmarks.training.finetune --strategy fc --image-size 224

Every contestant is a process of its own and gets the same images, initial weights, epochs and
hyper-parameters (`benchmarks.contestants`). They take turns, so that a slow minute of the machine
hits all of them; medians of the rounds are compared. Wall time is from start to end of the process,
imports, checkpoints and (ours) the report included.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from itertools import chain, islice, repeat
from pathlib import Path

import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from scipy.stats import fisher_exact
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.models import VGG, VGG19_Weights, vgg19

from benchmarks.contestants.job import Job, Outcome
from benchmarks.machine import describe_machine
from benchmarks.plots import bar_chart
from models.imaging.image import load_image
from models.imaging.preprocessing import Preprocessing
from models.network.build import initialise_from_data
from models.network.normalize import Normalize
from models.network.vgg19 import VGG19

TUTORIAL, TUTORIAL_BF16 = "tutorial loop", "tutorial loop, bf16, channels-last"
COLD, WARM = "this project", "this project, warm cache"
# Accuracies that differ this improbably were not trained for the same.
_SIGNIFICANCE = 0.01
_CLASSES = 10


@dataclass(frozen=True)
class Row:
    """What is printed of a contestant: medians, and the highest peak of memory."""

    contestant: str
    seconds: float
    times_as_fast: float | None
    peak_bytes: int
    loss: float
    accuracy: float


@dataclass(frozen=True)
class Result:
    """One run of one contestant."""

    contestant: str
    seconds: float
    peak_bytes: int
    loss: float
    correct: int
    images: int


def main() -> None:
    options = _options()
    output = Path(options.output)
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-finetune-") as place:
        job = prepare(Path(place), options)
        results = [
            result
            for number in range(options.first_seed, options.first_seed + options.rounds)
            for result in run_round(Path(place), job, contestants(job.strategy), number)
        ]
    summary = summarise(results)
    report = {
        "machine": describe_machine(),
        "command": " ".join(sys.argv),
        "job": {key: value for key, value in asdict(job).items() if key not in ("data", "weights")},
        "train_images": options.train,
        "val_images": options.val,
        "pretrain_steps": options.pretrain,
        "runs": [asdict(result) for result in results],
        "summary": [asdict(row) for row in summary],
    }
    name = f"finetune-{job.strategy}-{job.image_size}"
    (output / f"{name}.json").write_text(json.dumps(report, indent=2) + "\n")
    bar_chart(
        {row.contestant: row.seconds for row in summary},
        title=f"strategy {job.strategy}, {job.image_size} px, {job.epochs} epochs",
        unit="seconds (less is better)",
        path=output / f"{name}.png",
    )
    print_summary(summary)
    print(f"written to {output / name}.json and .png")


def contestants(strategy: str) -> dict[str, str]:
    """Name -> module; other tools where they are installed (extra `bench`)."""
    modules = {TUTORIAL: "tutorial", TUTORIAL_BF16: "tutorial_bf16", COLD: "ours"}
    if strategy != "full":  # where nothing is frozen, nothing is kept
        modules |= {WARM: "ours"}
    modules |= {
        name: f"with_{name}" for name in ("fastai", "transformers") if find_spec(name) is not None
    }
    return modules


def prepare(place: Path, options: argparse.Namespace) -> Job:
    """Write images and initial weights."""
    write_digits(place / "data" / "train", range(options.train))
    write_digits(place / "data" / "val", range(options.train, options.train + options.val))
    model = random_weights(place / "data" / "train", options.image_size)
    if options.pretrain:
        others = range(options.train + options.val, len(load_digits().images))
        write_digits(place / "others", others)
        pretrain(model, place / "others", options.image_size, steps=options.pretrain)
    torch.save(model.state_dict(), place / "start.pth")
    return Job(
        data=str(place / "data"),
        weights=str(place / "start.pth"),
        strategy=options.strategy,
        image_size=options.image_size,
        epochs=options.epochs,
        batch_size=32,
        learning_rate=1e-4,
        weight_decay=0.01,
        seed=0,
    )


def write_digits(root: Path, indices: range) -> None:
    """scikit-learn's digits as JPEGs of 256 x 256, a folder for each digit."""
    digits = load_digits()
    for index in indices:
        folder = root / str(digits.target[index])
        folder.mkdir(parents=True, exist_ok=True)
        pixels = (digits.images[index] * 255 / 16).astype("uint8")
        image = Image.fromarray(pixels).resize((256, 256), Image.Resampling.BICUBIC)
        image.convert("RGB").save(folder / f"{index:04}.jpg", quality=90)


def random_weights(images: Path, image_size: int) -> VGG:
    """Stands for pretrained weights: random, scaled on the images so that they can learn."""
    torch.manual_seed(0)
    preprocessing = Preprocessing(image_size=image_size, resize_size=image_size)
    files = sorted(images.glob("*/*.jpg"))
    some = files[:: max(1, len(files) // 32)]
    pixels = torch.stack([torch.from_numpy(load_image(f, preprocessing).copy()) for f in some])
    model: VGG = vgg19()
    initialise_from_data(VGG19, model, Normalize(preprocessing)(pixels))
    return model


def pretrain(model: VGG, images: Path, image_size: int, steps: int) -> None:
    """Teach it digits that no contestant sees. From random weights, all layers stay on a plateau
    for a number of epochs that is a matter of luck, and the accuracies would be, too."""
    transform = VGG19_Weights.IMAGENET1K_V1.transforms(crop_size=image_size, resize_size=image_size)
    loader = DataLoader(ImageFolder(images, transform), batch_size=32, shuffle=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    for inputs, targets in islice(chain.from_iterable(repeat(loader)), steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), targets)
        loss.backward()
        optimizer.step()
    print(f"pretrained for {steps} steps, loss {loss.item():.3f}", flush=True)


def run_round(place: Path, job: Job, modules: dict[str, str], number: int) -> list[Result]:
    """Every contestant once, beginning with another one each time; warm follows cold.

    The seed is the round's number: one run's accuracy says little of 32 images.
    """
    job = replace(job, seed=number)
    names = list(modules)
    names = names[number % len(names) :] + names[: number % len(names)]
    if WARM in names:
        names.remove(WARM)
        names.insert(names.index(COLD) + 1, WARM)
    shutil.rmtree(place / "cache", ignore_errors=True)
    return [run(place, job, name, modules[name]) for name in names]


def run(place: Path, job: Job, name: str, module: str) -> Result:
    """One contestant in a process of its own."""
    job.write(place / "job.json")
    outcome_file = place / "outcome.json"
    outcome_file.unlink(missing_ok=True)
    shutil.rmtree(outcome_file.with_suffix(".run"), ignore_errors=True)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", f"benchmarks.contestants.{module}", "job.json", "outcome.json"],
        cwd=place, env=environment, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    _, status, usage = os.wait4(process.pid, 0)  # with its children
    seconds = time.monotonic() - started
    if status != 0:
        sys.exit(f"{name} ended with status {os.waitstatus_to_exitcode(status)}")
    outcome = Outcome(**json.loads(outcome_file.read_text()))
    print(
        f"{name}: {seconds:.1f} s, loss {outcome.loss:.3f}, {outcome.correct} correct", flush=True
    )
    return Result(
        name, seconds, usage.ru_maxrss * 1024, outcome.loss, outcome.correct, outcome.images
    )


def summarise(results: list[Result]) -> list[Row]:
    """Medians of each contestant, and its ratio to the tutorial's loop in the same rounds.

    The ratio is None where the accuracies differ by more than chance allows.
    """
    names = list(dict.fromkeys(result.contestant for result in results))
    of = {name: [r for r in results if r.contestant == name] for name in names}
    rows = []
    for name in names:
        ratios = [
            base.seconds / mine.seconds for base, mine in zip(of[TUTORIAL], of[name], strict=True)
        ]
        comparable = same_accuracy(of[TUTORIAL], of[name])
        rows.append(
            Row(
                contestant=name,
                seconds=statistics.median(r.seconds for r in of[name]),
                times_as_fast=statistics.median(ratios) if comparable else None,
                peak_bytes=max(r.peak_bytes for r in of[name]),
                loss=statistics.median(r.loss for r in of[name]),
                accuracy=statistics.median(r.correct / r.images for r in of[name]),
            )
        )
    return rows


def same_accuracy(first: list[Result], second: list[Result]) -> bool:
    """Fisher's exact test on the right and wrong answers of all rounds."""
    table = [
        [sum(run.correct for run in runs), sum(run.images - run.correct for run in runs)]
        for runs in (first, second)
    ]
    return bool(fisher_exact(table).pvalue >= _SIGNIFICANCE)


def print_summary(summary: list[Row]) -> None:
    table = Table("", "seconds", "times as fast", "peak GB", "loss", "accuracy", box=None)
    for row in summary:
        ratio = row.times_as_fast
        table.add_row(
            row.contestant,
            f"{row.seconds:.1f}",
            "not the same accuracy" if ratio is None else f"{ratio:.2f}",
            f"{row.peak_bytes / 1e9:.2f}",
            f"{row.loss:.3f}",
            f"{row.accuracy:.1%}",
        )
    Console().print(table)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Fine-tuning VGG-19, side by side.")
    parser.add_argument("--strategy", choices=["fc", "full"], default="fc")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--train", type=int, default=128, help="training images")
    parser.add_argument("--val", type=int, default=32, help="validation images")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument(
        "--pretrain", type=int, default=0, help="steps on other images before the job begins"
    )
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--first-seed", type=int, default=0, help="of the first round")
    parser.add_argument("--output", default="build/benchmarks", help="folder for JSON and charts")
    return parser.parse_args()


if __name__ == "__main__":
    main()
