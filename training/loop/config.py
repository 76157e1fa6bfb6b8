"""The typed configuration of a training run; YAML keys and flags are its fields."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ByteSize, ConfigDict, Field, ValidationError, model_validator

from models.errors import UserError
from models.imaging.preprocessing import (
    IMAGENET_IMAGE_SIZE,
    MIN_IMAGE_SIZE,
    Preprocessing,
    default_resize_size,
)
from models.network.strategies import Strategy, default_unfreeze_epochs
from models.text import utf8


class ConfigError(UserError):
    """A configuration key is unknown or its value is out of range."""


# What fields were called in configurations that runs, models and users have written before.
_FORMER_NAMES = {"thaw_epochs": "unfreeze_epochs", "unlike": "ood_data"}


class TrainConfig(BaseModel):
    """Everything that decides what a training run computes.

    Written, resolved, to `config.yaml` in the run directory. Unknown keys are errors.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    data: Path = Field(description="image folder: class/file or {train,val,test}/class/file")
    output: Path = Field(description="run directory, must not exist yet")

    # Model
    weights: str = Field(default="imagenet", description="imagenet, none, or a state dict's path")
    image_size: int = Field(default=IMAGENET_IMAGE_SIZE, ge=MIN_IMAGE_SIZE, description="pixels")
    resize_size: int | None = Field(
        default=None,
        description="shorter side before the crop, in pixels; default 256/224 of image_size",
    )
    dropout: float = Field(default=0.5, ge=0, lt=1, description="after FC1 and FC2; VGG's own 0.5")

    # What trains
    strategy: Strategy = Field(
        default="fc",
        description="head; fc: FC1, FC2 and the head; gradual: fc, then the blocks; full",
    )
    unfreeze: tuple[str, ...] = Field(
        default=(), description="patterns of layers that train as well, such as features.3?"
    )
    unfreeze_epochs: tuple[int, ...] | None = Field(
        default=None,
        max_length=5,
        description="epochs at which gradual unfreezes one more block; default: spread over the "
        "run",
    )

    # Loop
    epochs: int = Field(default=10, ge=1)
    batch_size: int = Field(default=32, ge=1, description="images an optimizer step, all processes")
    micro_batch_size: int | None = Field(
        default=None, ge=1, description="images at once in a process; default: its whole share"
    )
    auto_batch: bool = Field(
        default=False, description="on out-of-memory halve micro_batch_size, keep batch_size"
    )
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = Field(default=1e-4, gt=0, description="of the new head")
    pretrained_learning_rate: float | None = Field(
        default=None,
        gt=0,
        description="of the unfrozen layers; default: learning_rate / 10, or learning_rate itself "
        "with weights none",
    )
    layer_decay: float = Field(
        default=1.0, gt=0, le=1, description="factor from each layer to the one below it"
    )
    schedule: Literal["cosine", "constant"] = Field(
        default="cosine", description="after the warm-up; cosine: down to zero"
    )
    warmup_fraction: float = Field(
        default=0.05, ge=0, lt=1, description="of all steps, in which the rates rise from zero"
    )
    weight_decay: float = Field(default=0.01, ge=0)
    momentum: float = Field(default=0.9, ge=0, lt=1, description="of sgd")
    clip_norm: float | None = Field(default=1.0, gt=0, description="of the gradient; null: none")
    ema_decay: float | None = Field(
        default=None, gt=0, lt=1, description="average the weights (0.999, say) and save those"
    )
    early_stopping: int | None = Field(
        default=None, ge=1, description="epochs without a better one after which to stop"
    )

    # Loss
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    class_weights: Literal["none", "balanced"] = Field(
        default="none", description="balanced: a rare class's error counts more"
    )
    balanced_sampling: bool = Field(
        default=False, description="draw every class equally often instead of every image once"
    )

    # Augmentation
    augment: Literal["none", "basic", "trivial", "rand"] = Field(
        default="basic",
        description="basic: random crop; trivial, rand: TrivialAugment, RandAugment after it",
    )
    crop_scale: float = Field(
        default=0.6, gt=0, le=1, description="smallest area of the random crop"
    )
    horizontal_flip: bool = Field(default=True, description="false for text, digits, sides")
    random_erasing: float = Field(default=0.0, ge=0, le=1, description="probability")
    mixup: float = Field(default=0.0, ge=0, description="alpha; 0: off")
    cutmix: float = Field(default=0.0, ge=0, description="alpha; 0: off")

    # Features of the frozen layers
    views: int = Field(
        default=4,
        ge=0,
        description="augmented views of an image whose features are cached and cycled through; "
        "0: compute everything every time",
    )
    cache_dir: Path | None = Field(
        default=None, description="of the features; default: vgg19/features in the user's cache"
    )
    cache_limit: ByteSize = Field(
        default=ByteSize(20 * 10**9),
        ge=0,
        description="of all features in cache_dir, such as 5GB; the longest unused make room",
    )
    cache_dtype: Literal["auto", "float32", "float16"] = Field(
        default="auto", description="of the features; auto: float32 on the CPU, float16 on GPUs"
    )

    # Which answers are accepted
    target_precision: float = Field(
        default=0.95,
        gt=0,
        le=1,
        description="how often accepted answers are to be right, on the validation images",
    )
    ood_data: Path | None = Field(
        default=None,
        description="folder of out-of-distribution images: the report tells how well distance "
        "from the training images detects them",
    )

    # Data
    label_column: str = Field(default="label", description="of a CSV file or a dataset")
    image_column: str | None = Field(
        default=None, description="default: path of a CSV file, image of a dataset"
    )
    val_fraction: float = Field(
        default=0.15, gt=0, lt=1, description="of each class, where the data has no val"
    )
    test_fraction: float = Field(
        default=0.15, ge=0, lt=1, description="of each class, where the data has no splits"
    )
    max_bad_fraction: float = Field(
        default=0.1, ge=0, lt=1, description="of a class that may be unreadable and is skipped"
    )

    # Machine
    seed: int = Field(default=0, ge=0, lt=2**32)
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = Field(
        default="auto", description="auto: bf16 on GPUs that have it, else float32"
    )
    compile: bool = Field(default=False, description="torch.compile the network")
    num_workers: int | None = Field(
        default=None, ge=0, description="loader processes; default 0 on the CPU, up to 8 on a GPU"
    )
    save_every_steps: int | None = Field(
        default=None, ge=1, description="save the resume state also inside an epoch"
    )
    save_every_seconds: float = Field(
        default=300,
        ge=0,
        description="after an epoch, save best, last and the resume state if the last save is as "
        "old as this",
    )
    tracker: Literal["none", "tensorboard", "mlflow", "wandb"] = "none"

    @model_validator(mode="before")
    @classmethod
    def _rename_fields(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        return {_FORMER_NAMES.get(name, name): value for name, value in values.items()}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError(
                f"val_fraction {self.val_fraction} and test_fraction {self.test_fraction} leave "
                "nothing to train on; their sum must be below 1"
            )
        if self.resize_size is not None and self.resize_size < self.image_size:
            raise ValueError(
                f"resize_size is {self.resize_size}, it must be {self.image_size} (image_size) or "
                "more"
            )
        if self.unfreeze_epochs is not None and list(self.unfreeze_epochs) != sorted(
            set(self.unfreeze_epochs)
        ):
            raise ValueError(
                f"unfreeze_epochs is {list(self.unfreeze_epochs)}, it must rise from block to block"
            )
        return self

    def preprocessing(self) -> Preprocessing:
        return Preprocessing(
            image_size=self.image_size,
            resize_size=self.resize_size or default_resize_size(self.image_size),
        )

    def feature_type(self, device: str) -> Literal["float32", "float16"]:
        """In what the features are cached that are computed on this kind of device."""
        if self.cache_dtype != "auto":
            return self.cache_dtype
        return "float32" if device == "cpu" else "float16"

    def _unfreeze_epochs(self) -> tuple[int, ...] | None:
        if self.strategy != "gradual":
            return self.unfreeze_epochs
        return self.unfreeze_epochs or default_unfreeze_epochs(self.epochs)

    def resolved(self) -> TrainConfig:
        """The same run with every default that depends on another field filled in."""
        factor = 1.0 if self.weights == "none" else 0.1
        return self.model_copy(
            update={
                "resize_size": self.preprocessing().resize_size,
                "pretrained_learning_rate": self.pretrained_learning_rate
                or self.learning_rate * factor,
                "unfreeze_epochs": self._unfreeze_epochs(),
            }
        )


def load_config(file: Path | None, overrides: Mapping[str, Any]) -> TrainConfig:
    """Merge a YAML file with command-line values (which win; None means not given).

    Without an `output`, the run goes to `runs/<name of the data>-<UTC time>`.

    Raises:
        ConfigError: the file can't be read, or a key or value isn't allowed.
    """
    values = read_yaml(file) if file else {}
    values.update({key: value for key, value in overrides.items() if value is not None})
    name = utf8(Path(str(values.get("data", "data"))).resolve().name)
    values.setdefault("output", f"runs/{name}-{datetime.now(UTC):%Y%m%d-%H%M%S}")
    try:
        return TrainConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(explain(error, TrainConfig)) from None


def read_config(file: Path) -> TrainConfig:
    """Read back what `write_config` wrote."""
    return load_config(file, {})


def write_config(config: TrainConfig, path: Path) -> None:
    path.write_text(
        yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), encoding="utf-8"
    )


def read_yaml(file: Path) -> dict[str, Any]:
    """A YAML file of `key: value` lines.

    Raises:
        ConfigError: it can't be read, or is something else.
    """
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"config file {file} can't be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"config file {file} is not YAML: {' '.join(str(error).split())}"
        ) from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"config file {file} must hold 'key: value' lines")
    return values


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """All problems in one line, each with the key, the value and what is allowed."""
    return "; ".join(_explain_one(dict(problem), model) for problem in error.errors())


def _explain_one(problem: dict[str, Any], model: type[BaseModel]) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "missing":
        return f"{key} is missing; give --{key.replace('_', '-')} or set it in the config file"
    if problem["type"] == "extra_forbidden" and len(problem["loc"]) == 1:
        return f"unknown config key '{key}'; the keys are {', '.join(model.model_fields)}"
    if problem["type"] == "extra_forbidden":
        return f"unknown config key '{key}'"
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"])
    rule = problem["msg"].removeprefix("Input ")
    return f"{key} is {problem['input']!r}, it {rule[0].lower()}{rule[1:]}"
