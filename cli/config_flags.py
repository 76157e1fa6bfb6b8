"""Flags made of the fields of a configuration: a new field is a new flag."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import typer
from pydantic import ByteSize
from pydantic.fields import FieldInfo

from training.loop.config import FORMER_NAMES, TrainConfig
from training.loop.config_file import flag

Command = TypeVar("Command", bound=Callable[..., None])

# What the command line itself checks; the rest is text that the configuration checks.
_CHECKED = (bool, int, float)


# A dictionary has no form as a flag; the commands that need one have their own. Who adds a network
# chooses it in the configuration file.
_FLAGS = tuple(
    name
    for name, field in TrainConfig.model_fields.items()
    if get_origin(field.annotation) is not dict and name != "network"
)


# Under which heading `vgg19 train --help` lists a flag: from the field named here to the next one.
_PANELS = {
    "weights": "Network and strategy",
    "epochs": "Loop and loss",
    "augment": "Augmentation",
    "views": "Cached features",
    "target_precision": "Accepted answers",
    "label_column": "Reading and splitting the data",
    "seed": "Machine and records",
}


def config_flags(names: Collection[str] = _FLAGS) -> Callable[..., Any]:
    """Give a command a flag for each of these fields of `TrainConfig`, in the place of its
    `**values`: those that were not given are None or empty. They come first in --help, which has
    headings where a command has all of them."""

    def decorate(command: Command) -> Command:
        own = inspect.signature(command, eval_str=True).parameters.values()
        kept = [
            one.replace(kind=one.KEYWORD_ONLY) for one in own if one.kind is not one.VAR_KEYWORD
        ]
        panels = _panels() if names is _FLAGS else {}
        fields = [
            _parameter(name, TrainConfig.model_fields[name], panels.get(name)) for name in names
        ]
        command.__signature__ = inspect.Signature([*fields, *kept])  # type: ignore[attr-defined]
        return command

    return decorate


def given(values: dict[str, Any]) -> dict[str, Any]:
    """Those of a command's `**values` that were given."""
    return {name: value for name, value in values.items() if value not in (None, [], ())}


def _panels() -> dict[str, str]:
    """The heading of each flag that has one."""
    panels: dict[str, str] = {}
    heading = None
    for name in _FLAGS:
        heading = _PANELS.get(name, heading)
        if heading is not None:
            panels[name] = heading
    return panels


def _parameter(name: str, field: FieldInfo, panel: str | None) -> inspect.Parameter:
    kind, is_list, metavar = _type(field.annotation)
    former = [flag(former) for former, present in FORMER_NAMES.items() if present == name]
    names = [*_names(name, kind), *former]
    option = typer.Option(
        *names, help=_help(field, is_list=is_list), metavar=metavar, rich_help_panel=panel
    )
    annotation = Annotated[(list[kind] if is_list else kind) | None, option]  # type: ignore[valid-type]
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
    )


def _names(name: str, kind: type) -> list[str]:
    return [f"{flag(name)}/--no-{flag(name)[2:]}"] if kind is bool else [flag(name)]


def _help(field: FieldInfo, *, is_list: bool) -> str:
    text = field.description or ""
    if is_list:
        text += "; may be repeated"
    if not field.is_required() and field.default not in (None, ()):
        is_size = isinstance(field.default, ByteSize)
        default = field.default.human_readable(decimal=True) if is_size else field.default
        text += f"  [default: {default}]"
    return text


def _type(annotation: Any) -> tuple[type, bool, str | None]:
    """What typer is to make of a flag's text, whether it may be repeated, and what --help calls
    its value (None: as typer does)."""
    if get_origin(annotation) in (Union, types.UnionType):
        (annotation,) = (one for one in get_args(annotation) if one is not type(None))
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) is tuple:
        kind, _, metavar = _type(get_args(annotation)[0])
        return kind, True, metavar
    if get_origin(annotation) is Literal:
        return str, False, "|".join(get_args(annotation))
    if annotation is Path:  # not typer's Path, which would make one slash of the two of a URL
        return str, False, "PATH"
    return (annotation if annotation in _CHECKED else str), False, None
