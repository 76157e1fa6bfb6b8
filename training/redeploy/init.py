"""`vgg19 redeploy --init`: a configuration for the images and the model that are there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from models.bundle.bundle import Bundle
from models.bundle.manifest import sha256
from models.files import staged_file
from models.network.architectures import architecture
from models.registry import store
from training.data.exclude import leave_out
from training.data.sources import data_root, find_images
from training.loop.config import TrainConfig
from training.loop.config_file import ConfigError, recorded_config
from training.redeploy.config import BESIDE_DATA, NOT_TO_SET, RedeployConfig
from training.redeploy.contents import COLUMN, write_contents
from training.redeploy.gate import GateConfig
from training.redeploy.job_state import is_in_job

# Columns of a table that the job writes itself, and what a challenger is not told by.
_NOT_TAKEN = {*NOT_TO_SET, "split_by"}
_ALWAYS = ("weights", "strategy", "epochs", "image_size", "learning_rate")


def init(file: Path, data: Path | None) -> RedeployConfig:
    """Write `file`, with the training configuration of the model in production, if there is one.

    Args:
        data: the labelled images; None: those that the model in production was trained on.

    Raises:
        ConfigError: the file is there already, or nothing says where the images are.
        DataError: `data` holds no images, or what the training has left out isn't there any more.
    """
    if file.exists():
        raise ConfigError(
            f"{file} exists already; edit it, remove it, or name another one with --config"
        )
    version = store.production_version_or_none()
    champion = store.inspect_stored(store.resolve(version)) if version else None
    trained = recorded_config(champion.manifest.provenance.training_config) if champion else None
    data = data or _data_of(trained)
    columns = None if trained is None else trained.columns()
    count = len(find_images(data, columns).files)
    values = _values(data, trained, count)
    if trained is not None and trained.exclude is not None:
        excluded = file.with_name(f"{file.stem}-excluded.csv")
        _write_excluded(trained, trained.exclude, excluded)
        values["exclude"] = str(excluded)
    config = RedeployConfig.model_validate(values)
    with staged_file(file) as staging:
        staging.write_text(_text(values, champion, count), encoding="utf-8")
    return config


def _write_excluded(trained: TrainConfig, names: Path, table: Path) -> None:
    """The images that the training left out, by their content: a job gives them other names.

    Raises:
        DataError: the table of names can't be read, or names one that isn't there.
    """
    files = find_images(trained.data, trained.columns()).files
    root = data_root(trained.data)
    _, excluded = leave_out(files, names, root)
    rows = [{COLUMN: sha256(one.path), "file": str(one.path)} for one in excluded]
    write_contents(rows, (COLUMN, "file"), table)


def _data_of(trained: TrainConfig | None) -> Path:
    if trained is None:
        raise ConfigError("no model is in production to take the images of; give --data")
    if is_in_job(trained.output):
        raise ConfigError(
            "the model in production comes from a redeploy job, which has a configuration; to "
            "write another one, name the images with --data"
        )
    return trained.data


def _values(data: Path, trained: TrainConfig | None, count: int) -> dict[str, Any]:
    """What differs from the defaults, and what people look for."""
    values: dict[str, Any] = {"data": [str(data)]}
    if trained is not None:
        train = _train_section(trained)
        values |= {name: train.pop(name) for name in BESIDE_DATA if name in train}
        values["train"] = train
        values["val_fraction"] = trained.val_fraction
        if trained.test_fraction > 0:
            values["test_fraction"] = trained.test_fraction
    test_fraction = values.get(
        "test_fraction", RedeployConfig.model_fields["test_fraction"].default
    )
    usual = GateConfig().min_held_out or 1
    # Half of what is expected: how many there are is left to chance.
    values["gate"] = {"min_held_out": max(1, min(usual, int(count * test_fraction / 2)))}
    return values


def _train_section(trained: TrainConfig) -> dict[str, Any]:
    """Only what says something: of a resolved configuration most are defaults."""
    recorded = trained.model_dump(mode="json")
    chosen = {name: recorded[name] for name in ("data", "output", *_ALWAYS)}
    blocks = len(architecture(trained.network).blocks)
    usual = TrainConfig.model_validate(chosen).resolved(blocks).model_dump(mode="json")
    return {
        name: value
        for name, value in recorded.items()
        if name not in _NOT_TAKEN and (name in _ALWAYS or value != usual[name])
    }


def _text(values: dict[str, Any], champion: Bundle | None, count: int) -> str:
    whose = "as the model in production was trained" if champion else "as in 'vgg19 train --config'"
    train = values.get("train", {"strategy": "fc", "epochs": 10})
    fractions = {name: value for name, value in values.items() if name.endswith("_fraction")}
    return f"""# Written by 'vgg19 redeploy --init'; every key is in docs/redeploy.md.
# Paths are relative to the directory that the command is given in.

# Where labelled images are: add to this folder, or name others below it. A label in a later source
# corrects an earlier one's.
{_yaml({name: values[name] for name in ("data", "exclude", *BESIDE_DATA) if name in values})}
# capture: captured   # images that the service kept (VGG19_CAPTURE_URL) and somebody has labelled

# {whose[0].upper()}{whose[1:]}.
{_yaml({"train": train})}{_yaml(fractions) if fractions else ""}
# Of {count} images. A challenger is refused where fewer images that neither it nor the model in
# production was trained on can judge; raise this as images come.
{_yaml({"gate": values["gate"]})}
# Running services that must answer with the new version before the job is done; if one doesn't,
# production goes back.
# services:
#   - http: http://127.0.0.1:3000
#     grpc: 127.0.0.1:3001
"""


def _yaml(values: dict[str, Any]) -> str:
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
