"""A run's configuration from YAML and flags, and back; what is wrong with it, in one line."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from models.errors import UserError
from models.paths import absolute_path
from models.text import utf8
from training.loop.config import RESUMABLE, TrainConfig

# What was done before there was a field for it.
_FORMER_DEFAULTS = {"split_by": "exact", "head_init": "random"}


class ConfigError(UserError):
    """A configuration key is unknown or its value is out of range."""


def load_config(file: Path | None, overrides: Mapping[str, Any]) -> TrainConfig:
    """Merge a YAML file with command-line values (which win; None means not given).

    Without an `output`, the run goes to `runs/<name of the data>-<UTC time>`. Relative paths, also
    those in the file, are relative to the working directory.

    Raises:
        ConfigError: the file can't be read, or a key or value isn't allowed.
    """
    values = read_yaml(file) if file else {}
    values.update({key: value for key, value in overrides.items() if value is not None})
    data = Path(os.path.normpath(absolute_path(str(values.get("data", "data")))))
    name = utf8(data.name) or "data"
    values.setdefault("output", f"runs/{name}-{datetime.now(UTC):%Y%m%d-%H%M%S}")
    try:
        return TrainConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(explain(error, TrainConfig)) from None


def read_config(file: Path) -> TrainConfig:
    """Read back what `write_config` wrote."""
    return recorded_config(read_yaml(file))


def recorded_config(values: Mapping[str, Any]) -> TrainConfig:
    """The configuration that a run or a bundle recorded, by whatever version it was.

    Raises:
        ConfigError: it isn't one.
    """
    return load_config(None, _FORMER_DEFAULTS | dict(values))


def read_resumed(file: Path, output: Path, changes: Mapping[str, Any]) -> TrainConfig:
    """The configuration of the run in `output`, with changes to how it goes on.

    Raises:
        ConfigError: one of them would change what the run computes, or isn't allowed.
    """
    fixed = [flag(name) for name in changes if name not in RESUMABLE]
    if fixed:
        raise ConfigError(
            f"--resume uses the run's own configuration, in which {', '.join(fixed)} can't "
            f"change; what can is {', '.join(map(flag, RESUMABLE))}"
        )
    return recorded_config(read_yaml(file) | dict(changes) | {"output": output})


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


def flag(name: str) -> str:
    """What a field is called on the command line."""
    return f"--{name.replace('_', '-')}"


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """All problems in one line, each with the key, the value and what is allowed."""
    return "; ".join(_explain_one(dict(problem), model) for problem in error.errors())


def _explain_one(problem: dict[str, Any], model: type[BaseModel]) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "missing":
        return f"{key} is missing; give {flag(key)} or set it in the config file"
    if problem["type"] == "extra_forbidden" and len(problem["loc"]) == 1:
        return f"unknown config key '{key}'; the keys are {', '.join(model.model_fields)}"
    if problem["type"] == "extra_forbidden":
        return f"unknown config key '{key}'"
    if problem["type"] == "value_error":  # of one field, or of how they fit together
        return " ".join(filter(None, (key, str(problem["ctx"]["error"]))))
    rule = problem["msg"].removeprefix("Input ")
    return f"{key} is {problem['input']!r}, it {rule[0].lower()}{rule[1:]}"
