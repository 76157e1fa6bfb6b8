"""Compare the strategies on one task, for docs/training.md: VGG-19 learns the digits 0-4 from
scratch, and is then fine-tuned on few images of 5-9. About ten minutes on two cores.

    python examples/strategies.py
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

OUTPUT = Path("strategies-output")
TRAIN_IMAGES = 20
STRATEGIES = ("head", "fc", "gradual", "full", "auto")
COMMON = ("--config", str(Path(__file__).with_name("digits.yaml")), "--image-size", "32")


def main() -> None:
    write_digits(OUTPUT / "first", range(5), train_images=None)
    write_digits(OUTPUT / "second", range(5, 10), train_images=TRAIN_IMAGES)
    train("first", OUTPUT / "pretrained", "--strategy", "full")
    weights = OUTPUT / "pretrained" / "checkpoints" / "best.safetensors"
    print("| strategy | accuracy | seconds |\n|---|---|---|")
    for strategy in STRATEGIES:
        run = OUTPUT / strategy
        options = ("--strategy", strategy, "--weights", str(weights), "--epochs", "10")
        seconds = train("second", run, *options, "--learning-rate", "1e-3")
        held_out = json.loads((run / "metrics.json").read_text())["held_out"]
        print(f"| `{strategy}` | {held_out['accuracy']:.1%} | {seconds:.0f} |", flush=True)


def write_digits(root: Path, classes: range, train_images: int | None) -> None:
    """The first images of each class to train, half of the class to test."""
    digits = load_digits()
    for label in classes:
        numbers = np.flatnonzero(digits.target == label)
        half = len(numbers) // 2
        parts = {"train": numbers[:half][:train_images], "test": numbers[half:]}
        for split, chosen in parts.items():
            (root / split / str(label)).mkdir(parents=True, exist_ok=True)
            for number in chosen:
                pixels = np.round(digits.images[number] * (255 / 16)).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / str(label) / f"{number:04}.png")


def train(data: str, run: Path, *options: str) -> float:
    """Run `vgg19 train`; seconds that it took, the import of PyTorch included."""
    command = [str(Path(sys.executable).with_name("vgg19")), "train", *COMMON]
    arguments = ["--data", str(OUTPUT / data), "--output", str(run), *options]
    started = time.monotonic()
    subprocess.run(command + arguments, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - started


if __name__ == "__main__":
    main()
