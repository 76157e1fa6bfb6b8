"""The typed configuration of a training run; YAML keys and flags are its fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ByteSize, ConfigDict, Field, model_validator

from models.imaging.preprocessing import (
    IMAGENET_IMAGE_SIZE,
    MIN_IMAGE_SIZE,
    Preprocessing,
    Resize,
    default_resize_size,
)
from models.network.unfreezing import StrategyChoice, default_unfreeze_epochs
from training.data.listing import Columns, SplitBy, SplitChoice
from training.loop.paths import (
    DataPath,
    LocalPath,
    WeightsPath,
    absolute_data,
    absolute_weights,
)

# What a resumed run may change: where and how fast it computes, not what.
RESUMABLE = (
    "device",
    "num_workers",
    "micro_batch_size",
    "auto_batch",
    "compile",
    "cache_dir",
    "cache_limit",
    "save_every_steps",
    "save_every_seconds",
)

# What switches off every change of single images: `probe` and `review` look at them as they are
# served.
NO_AUGMENTATION = {"augment": "none", "random_erasing": 0.0}

# What fields were called in configurations that runs, models and users have written before.
FORMER_NAMES = {"thaw_epochs": "unfreeze_epochs", "unlike": "ood_data"}


class TrainConfig(BaseModel):
    """Everything that decides what a training run computes.

    Written, resolved, to `config.yaml` in the run directory. Unknown keys are errors.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    data: DataPath = Field(
        description="folder class/file or {train,val,test}/class/file, .csv file, or hf:NAME"
    )
    output: LocalPath = Field(description="run directory, must not exist yet")

    # Model
    weights: WeightsPath = Field(
        default="imagenet", description="imagenet, none, or a state dict's path"
    )
    network: str = Field(
        default="vgg19", description="the only one there is; a key of the file, and no flag"
    )
    image_size: int = Field(default=IMAGENET_IMAGE_SIZE, ge=MIN_IMAGE_SIZE, description="pixels")
    resize: Resize = Field(
        default="crop",
        description="crop: the centre; squash: all of the image, made square; pad: all of it, with "
        "bars beside it",
    )
    resize_size: int | None = Field(
        default=None,
        description="shorter side before the crop, in pixels; default 256/224 of image_size; not "
        "with squash or pad",
    )
    dropout: float = Field(default=0.5, ge=0, lt=1, description="after FC1 and FC2; VGG's own 0.5")

    # What trains
    strategy: StrategyChoice = Field(
        default="fc",
        description="auto: find out what to unfreeze; head; fc: FC1, FC2 and the head; gradual: "
        "fc, then the blocks; full",
    )
    unfreeze: tuple[str, ...] = Field(
        default=(), description="patterns of layers that train as well, such as features.3?"
    )
    unfreeze_epochs: tuple[int, ...] | None = Field(
        default=None,
        description="epochs at which gradual unfreezes one more block; default: spread over the "
        "run",
    )

    head_init: Literal["auto", "ridge", "random"] = Field(
        default="auto",
        description="what the head begins with; ridge: a ridge regression on what goes into it; "
        "random; auto: ridge, but random where all layers begin with random weights",
    )

    # Loop
    epochs: int = Field(default=10, ge=1, description="passes over the training images")
    batch_size: int = Field(default=32, ge=1, description="images an optimizer step, all processes")
    micro_batch_size: int | None = Field(
        default=None, ge=1, description="images at once in a process; default: its whole share"
    )
    auto_batch: bool = Field(
        default=False, description="on out-of-memory halve micro_batch_size, keep batch_size"
    )
    optimizer: Literal["adamw", "sgd"] = Field(default="adamw", description="adamw or sgd")
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
    weight_decay: float = Field(default=0.01, ge=0, description="of the optimizer")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="of sgd")
    clip_norm: float | None = Field(default=1.0, gt=0, description="of the gradient; null: none")
    ema_decay: float | None = Field(
        default=None, gt=0, lt=1, description="average the weights (0.999, say) and save those"
    )
    early_stopping: int | None = Field(
        default=None, ge=1, description="epochs without a better one after which to stop"
    )

    # Loss
    label_smoothing: float = Field(
        default=0.1, ge=0, lt=1, description="share of a target that all classes get"
    )
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
        default=0.6,
        gt=0,
        le=1,
        description="smallest area of the random crop, of the largest square in the image",
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
    cache_dir: LocalPath | None = Field(
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
    ood_data: LocalPath | None = Field(
        default=None,
        description="folder of out-of-distribution images: the report tells how well distance "
        "from the training images detects them",
    )

    # Data
    label_column: str = Field(default="label", description="of a CSV file or a dataset")
    image_column: str | None = Field(
        default=None, description="default: path of a CSV file, image of a dataset"
    )
    split_column: str | None = Field(
        default=None, description="default: the one called split, or that holds names of splits"
    )
    split_names: dict[str, SplitChoice] = Field(
        default={},
        description="what the data's own names of splits mean: train, val, test or ignore; class: "
        "a folder so called is a class",
    )
    allow_conflicting_labels: bool = Field(
        default=False, description="train on an image that has two labels in a table"
    )
    val_fraction: float = Field(
        default=0.15, gt=0, lt=1, description="of each class, where the data has no val"
    )
    test_fraction: float = Field(
        default=0.15, ge=0, lt=1, description="of each class, where the data has no splits"
    )
    split_by: SplitBy = Field(
        default="hash",
        description="hash: by each image alone, as redeploy does, so that it stays where it is "
        "when others come; exact: the fractions to the image, anew for other images",
    )
    exclude: LocalPath | None = Field(
        default=None,
        description="CSV file whose first column names images to leave out, such as probe's "
        "--suspects",
    )
    max_bad_fraction: float = Field(
        default=0.1, ge=0, lt=1, description="of a class that may be unreadable and is skipped"
    )

    # Machine
    seed: int = Field(default=0, ge=0, lt=2**32, description="of every random choice")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        default="auto", description="auto: cuda, else mps, else cpu"
    )
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = Field(
        default="auto",
        description="auto: bf16 on GPUs that have it, and for frozen layers and convolutions "
        "on CPUs that have it; else float32",
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
    tracker: Literal["none", "tensorboard", "mlflow", "wandb"] = Field(
        default="none", description="where each epoch is logged as well"
    )

    @model_validator(mode="before")
    @classmethod
    def _rename_fields(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        return {FORMER_NAMES.get(name, name): value for name, value in values.items()}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError(
                f"val_fraction {self.val_fraction} and test_fraction {self.test_fraction} leave "
                "nothing to train on; their sum must be below 1"
            )
        if self.resize != "crop" and self.resize_size not in (None, self.image_size):
            raise ValueError(
                f"resize_size is {self.resize_size}, but resize {self.resize} crops nothing; leave "
                f"it out, or make it {self.image_size} (image_size)"
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

    def columns(self) -> Columns:
        return Columns(self.label_column, self.image_column, self.split_column, self.split_names)

    def preprocessing(self) -> Preprocessing:
        usual = default_resize_size(self.image_size) if self.resize == "crop" else self.image_size
        return Preprocessing(
            image_size=self.image_size,
            resize=self.resize,
            resize_size=self.resize_size or usual,
        )

    def feature_type(self, device: str) -> Literal["float32", "float16"]:
        """In what the features are cached that are computed on this kind of device."""
        if self.cache_dtype != "auto":
            return self.cache_dtype
        return "float32" if device == "cpu" else "float16"

    def _unfreeze_epochs(self, blocks: int) -> tuple[int, ...] | None:
        if self.strategy != "gradual":
            return self.unfreeze_epochs
        return self.unfreeze_epochs or default_unfreeze_epochs(self.epochs, blocks)

    def _head_init(self) -> Literal["ridge", "random"]:
        """Where all layers train from random weights, the first steps undo the fit: after one
        epoch 17% of the digits that it had right at 93% were (docs/training.md)."""
        if self.head_init != "auto":
            return self.head_init
        from_scratch = self.strategy == "full" and self.weights == "none"
        return "random" if from_scratch else "ridge"

    def resolved(self, blocks: int) -> TrainConfig:
        """The same run with every default that depends on another field filled in.

        Args:
            blocks: that `gradual` may unfreeze; `network` decides how many there are.
        """
        factor = 1.0 if self.weights == "none" else 0.1
        return self.model_copy(
            update={
                "resize_size": self.preprocessing().resize_size,
                "pretrained_learning_rate": self.pretrained_learning_rate
                or self.learning_rate * factor,
                "unfreeze_epochs": self._unfreeze_epochs(blocks),
                "head_init": self._head_init(),
            }
        )

    def absolute(self) -> TrainConfig:
        """The same run with paths that mean the same in every directory, for its records."""
        return self.model_copy(
            update={
                "data": absolute_data(self.data),
                "output": self.output.absolute(),
                "weights": absolute_weights(self.weights),
                "cache_dir": self.cache_dir and self.cache_dir.absolute(),
                "ood_data": self.ood_data and self.ood_data.absolute(),
                "exclude": self.exclude and self.exclude.absolute(),
            }
        )
