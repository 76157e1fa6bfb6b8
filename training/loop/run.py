"""The run directory: where everything that a training run produces lies.

config.yaml     the resolved configuration
data.json       which image has which label in which split, with the fingerprint
metrics.json    per epoch, and on the held-out images
held_out.npz    up to 32 held-out images, for the parity proof and the golden samples
familiar.npz    statistics of the features of training images, for the distance of others
provenance.json seed, versions, git commit
checkpoints/    best.safetensors, last.safetensors
head.json       how good the head is that was fitted in closed form, by cross-validation
auto.json       what strategy auto has tried, with figures, and why it ended
report.html     what one looks at; its pictures as PNG in report/
bundle/         made by 'vgg19 export'
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.bundle.manifest import Provenance, sha256
from models.errors import UserError
from models.files import json_text, staged_file
from models.machine import processor_kind, processor_model
from models.network.architectures import architecture
from models.network.weights import IMAGENET, imagenet_file
from models.text import utf8
from training.data.decoding import decoding
from training.loop.config import TrainConfig
from training.loop.precision import cpu_computes_in_bf16
from training.loop.signals import resume_command

_PACKAGES = (
    "torch",
    "torchvision",
    "accelerate",
    "onnx",
    "onnxscript",
    "onnxruntime-gpu",
    "onnxruntime",
    "numpy",
    "pillow",
)
# In what is recorded of the hardware: there if these were computed in another type than the other
# layers.
BF16_CONVOLUTIONS, BF16_FROZEN = "convolutions that train", "frozen layers"
# Runs from before it was recorded say nothing of it.
PROCESSOR_MODEL = "processor model"


class RunError(UserError):
    """A run directory is in the way, missing or incomplete."""


@dataclass(frozen=True)
class Run:
    """Paths in a run directory."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def data(self) -> Path:
        return self.path / "data.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.json"

    @property
    def held_out(self) -> Path:
        return self.path / "held_out.npz"

    @property
    def feature_statistics(self) -> Path:
        """Not in runs from before there were distances."""
        return self.path / "familiar.npz"

    @property
    def reference(self) -> Path:
        """Not in runs from before drift was measured."""
        return self.path / "reference.json"

    @property
    def provenance(self) -> Path:
        return self.path / "provenance.json"

    @property
    def best(self) -> Path:
        return self.path / "checkpoints" / "best.safetensors"

    def staged_best(self, epoch: int) -> Path:
        """What becomes `best` when a state is saved that knows of this epoch."""
        return self.best.with_name(f"best-{epoch}.safetensors")

    def staged_bests(self) -> list[Path]:
        return sorted(self.best.parent.glob("best-*.safetensors"))

    @property
    def last(self) -> Path:
        return self.path / "checkpoints" / "last.safetensors"

    @property
    def state(self) -> Path:
        """What a run that was stopped goes on from; gone when it is finished."""
        return self.path / "checkpoints" / "state.pt"

    @property
    def auto(self) -> Path:
        """What strategy auto has tried, and why it ended; only in its runs."""
        return self.path / "auto.json"

    @property
    def head(self) -> Path:
        """How good the head is that was fitted in closed form; only where one was."""
        return self.path / "head.json"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def report_pictures(self) -> Path:
        return self.path / "report"

    @property
    def bundle(self) -> Path:
        return self.path / "bundle"

    def check_begun(self) -> None:
        """Refuse a directory that is not a run.

        Raises:
            RunError: `path` wasn't made by 'vgg19 train'.
        """
        if not self.config.is_file():
            raise RunError(
                f"{self.path} is not a run: it has no {self.config.name}; make one with "
                "'vgg19 train'"
            )

    def check_finished(self, metrics: dict[str, Any]) -> None:
        """Refuse a run whose best checkpoint isn't calibrated and judged yet.

        Args:
            metrics: what `metrics` holds.

        Raises:
            RunError: it was stopped before its end, or still trains.
        """
        if "held_out" not in metrics:
            raise RunError(
                f"{self.path} was interrupted before its end; continue with "
                f"'{resume_command(self.path)}'"
            )

    def read_json(self, path: Path) -> dict[str, Any]:
        """Read one of the run's JSON files.

        Raises:
            RunError: it isn't there, or isn't JSON.
        """
        try:
            content: dict[str, Any] = json.loads(path.read_bytes())
        except FileNotFoundError:
            if self.config.is_file():
                raise RunError(
                    f"{self.path} is not a finished run: it has no {path.name}; continue with "
                    f"'{resume_command(self.path)}'"
                ) from None
            found = (
                f"is not a run: it has no {path.name}" if self.path.exists() else "does not exist"
            )
            raise RunError(f"{self.path} {found}; make a run with 'vgg19 train'") from None
        except ValueError:
            raise RunError(f"{path} is damaged; train again") from None
        return content


def check_free(path: Path) -> None:
    """Refuse a run directory that would overwrite something, or couldn't hold a checkpoint.

    Raises:
        RunError: `path` exists and isn't an empty directory, or its name isn't UTF-8.
    """
    if utf8(str(path)) != str(path):  # found out by safetensors after the first epoch
        raise RunError(f"the name of the output {path} is not UTF-8; choose another --output")
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise RunError(f"output {path} exists already; choose another --output or remove it")


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Replace `path` in one step."""
    with staged_file(path) as staging:
        staging.write_text(json_text(content), encoding="utf-8")


def write_held_out(path: Path, images: NDArray[np.uint8], targets: NDArray[np.int64]) -> None:
    np.savez_compressed(path, images=images, targets=targets)


def read_held_out(path: Path) -> NDArray[np.uint8]:
    """The run's held-out images, uint8[N,S,S,3].

    Raises:
        RunError: the file is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            images: NDArray[np.uint8] = arrays["images"]
    except Exception as error:  # numpy and zipfile raise half a dozen types on damaged files
        raise RunError(f"{path} is missing or damaged; train again") from error
    return images


def record_provenance(
    config: TrainConfig, data_fingerprint: str, *, in_bf16: Sequence[str] = ()
) -> Provenance:
    """Args: in_bf16: see `training.loop.setup.computed_in_bf16`."""
    return Provenance(
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        # Part of a bundle's manifest, which is UTF-8; config.yaml has paths in their own bytes.
        training_config={
            key: utf8(value) if isinstance(value, str) else value
            for key, value in config.model_dump(mode="json").items()
        },
        data_fingerprint=data_fingerprint,
        seed=config.seed,
        git_commit=_git_commit(),
        packages=package_versions(),
        hardware=hardware() | dict.fromkeys(in_bf16, "bf16"),
        initial_weights_sha256=initial_weights_sha256(config.network, config.weights),
        decoding=decoding(),
    )


def initial_weights_sha256(network: str, weights: str) -> str | None:
    """Of the file that the weights come from; None where it is gone, and for `none`."""
    path = imagenet_file(architecture(network)) if weights == IMAGENET else Path(weights)
    return sha256(path) if weights != "none" and path.is_file() else None


def package_versions() -> dict[str, str]:
    """Of the packages that decide what training computes."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def hardware() -> dict[str, str]:
    """What decides in which order floating-point sums are made."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "machine": platform.machine(),
        "instruction set": torch.backends.cpu.get_cpu_capability(),
        "bf16": "yes" if cpu_computes_in_bf16() else "no",
        "processor": processor_kind(),  # oneDNN multiplies float32 on some, MKL on others
        # MKL chooses by the vendor as well, and libraries block their products by cache sizes.
        PROCESSOR_MODEL: processor_model(),
        "threads": str(torch.get_num_threads()),
        "GPUs": ", ".join(gpus) or "none",
    }


def _git_commit() -> str | None:
    """The commit of this code, with `-dirty` if it was changed; None outside of its checkout."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():  # installed, perhaps inside somebody else's repository
        return None
    commit = _git(root, "rev-parse", "HEAD")
    changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    return f"{commit}-dirty" if commit and changed else commit


def _git(root: Path, *arguments: str) -> str | None:
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}
    try:
        result = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True, check=True, text=True, timeout=30, env=environment,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip() or None
