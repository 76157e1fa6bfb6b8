"""The configuration of `vgg19 redeploy`."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from models.monitoring.shadow_rule import ShadowRule
from training.data.listing import Columns, SplitChoice
from training.loop.config import TrainConfig
from training.loop.config_file import ConfigError, explain, read_yaml
from training.loop.paths import DataPath, LocalPath, Location, StartPath
from training.redeploy.gate import GateConfig
from training.redeploy.smoke_test import ServiceConfig

# Decided by the job itself; its own `exclude` stands beside data and goes by content, since the job
# gives its images other names.
NOT_TO_SET = ("data", "output", "val_fraction", "test_fraction", "exclude")
# Of the sources, so they stand beside `data`; the job writes a table with columns of its own.
BESIDE_DATA = (
    "label_column", "image_column", "split_column", "split_names", "allow_conflicting_labels",
)  # fmt: skip
# Of what a job comes to.
_NOT_DECISIVE = {"services", "service_timeout_s", "state", "keep_jobs", "start_on"}


class RedeployConfig(BaseModel):
    """Everything that decides what a job does. Unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    data: tuple[DataPath, ...] = Field(
        min_length=1,
        description="sources of labelled images: the base first, what grows after it; a label in "
        "a later one corrects an earlier one's",
    )
    capture: Location | None = Field(
        default=None,
        description="where the service captures images (VGG19_CAPTURE_URL): those labelled since "
        "count as the last source",
    )
    label_column: str = Field(default="label", description="of CSV files and datasets in data")
    image_column: str | None = Field(
        default=None, description="default: path of a CSV file, image of a dataset"
    )
    split_column: str | None = Field(
        default=None, description="default: the one called split, or that holds names of splits"
    )
    split_names: dict[str, SplitChoice] = Field(
        default_factory=dict,
        description="what the data's own names of splits mean: train, val, test or ignore",
    )
    allow_conflicting_labels: bool = Field(
        default=False, description="take the last of two labels that one table has for an image"
    )
    exclude: LocalPath | None = Field(
        default=None,
        description="CSV file whose column sha256 names images to leave out, by their content",
    )
    suspects: Literal["off", "report", "put-aside"] = Field(
        default="report",
        description="new images whose labels the others contradict, see below: put-aside leaves "
        "them out until somebody has looked at them",
    )
    trusted: LocalPath | None = Field(
        default=None,
        description="CSV file whose column sha256 names images that are not suspected, since "
        "somebody has looked at them",
    )
    start_on: Literal["images", "drift"] = Field(
        default="images",
        description="images: begin a job whenever there are new ones; drift: only while one of the "
        "services has an alarm (docs/drift.md), and do nothing otherwise",
    )
    state: LocalPath = Field(
        default=Path("runs/redeploy"), description="directory of the jobs' states and runs"
    )
    start_from: StartPath = Field(
        default="pretrained",
        description="pretrained: the train section's weights; champion: the champion's checkpoint "
        "(with a new head); or a state dict's path",
    )
    train: dict[str, Any] = Field(
        default_factory=dict,
        description="keys of 'vgg19 train', except data, output and those that stand beside data",
    )
    val_fraction: float = Field(default=0.15, gt=0, lt=1, description="of all images, about")
    test_fraction: float = Field(default=0.15, gt=0, lt=1, description="of all images, about")
    keep_jobs: int = Field(
        default=20,
        ge=1,
        description="finished jobs that stay in state, with their runs; older ones are removed, "
        "but never what the model in production came from",
    )
    gate: GateConfig = Field(default_factory=GateConfig, description="the rules, see below")
    shadow: ShadowRule | None = Field(
        default=None,
        description="answer production's images in its shadow first, and promote when this rule "
        "holds (docs/rollout.md); null: promote what passes the gate",
    )
    sign_key: LocalPath | None = Field(
        default=None,
        description="private key that signs accepted challengers, for services with "
        "VGG19_REQUIRE_SIGNATURE; its passphrase is in MODEL_SIGNING_PASSPHRASE",
    )
    build: Literal["cpu", "gpu"] | None = Field(
        default=None,
        description="for immutable deployments: build a Bento of the model ('vgg19 build')",
    )
    image: str | None = Field(
        default=None,
        description="name of an image to make of that Bento, tagged VERSION-FLAVOUR; needs build, "
        "and a tool that BentoML can use",
    )
    image_backend: str = Field(default="docker", description="docker, podman, buildah, ...")
    services: tuple[ServiceConfig, ...] = Field(
        default=(), description="that must answer with the new version before the job is done"
    )
    service_timeout_s: float = Field(
        default=300.0, gt=0, description="for each service to serve the new version"
    )

    @model_validator(mode="after")
    def _train_keys(self) -> RedeployConfig:
        for key in NOT_TO_SET:
            if key in self.train:
                raise ValueError(f"train.{key} is decided by the job; remove it")
        for key in BESIDE_DATA:
            if key in self.train:
                raise ValueError(f"train.{key} is of the sources; set {key} beside data")
        if self.image is not None and self.build is None:
            raise ValueError("image needs build: cpu or gpu")
        if self.start_on == "drift" and not self.services:
            raise ValueError(
                "start_on: drift needs services to ask; name them, or set it to images"
            )
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError("val_fraction and test_fraction leave nothing to train on")
        return self

    def columns(self) -> Columns:
        return Columns(self.label_column, self.image_column, self.split_column, self.split_names)

    def train_config(self, data: Path, output: Path, weights: str | None) -> TrainConfig:
        """What 'vgg19 train' would be given.

        Raises:
            ConfigError: a key or value in `train` isn't allowed.
        """
        values = self.train | {"data": data, "output": output}
        if weights is not None:
            values["weights"] = weights
        try:
            return TrainConfig.model_validate(values)
        except ValidationError as error:
            raise ConfigError(f"train: {explain(error, TrainConfig)}") from None

    def digest(self) -> str:
        """Changes with everything that changes what a job would come to."""
        decisive = self.model_dump_json(exclude=_NOT_DECISIVE)
        return hashlib.sha256(decisive.encode()).hexdigest()


def load_redeploy_config(file: Path) -> RedeployConfig:
    """Read a YAML file; paths in it are relative to the working directory.

    Raises:
        ConfigError: it can't be read, or a key or value isn't allowed.
    """
    if not file.exists():
        raise ConfigError(
            f"config file {file} can't be read: there is none; 'vgg19 redeploy --init' writes one"
        )
    try:
        config = RedeployConfig.model_validate(read_yaml(file))
    except ValidationError as error:
        raise ConfigError(f"{file}: {explain(error, RedeployConfig)}") from None
    config.train_config(config.data[0], config.state, None)  # wrong keys are told at once
    return config
