"""`vgg19 probe`, and the search for wrong labels that `check-data` shares with it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from cli import panels
from cli.common import reporter, say
from cli.config_flags import config_flags, given
from cli.data_options import SplitNames, split_names
from models.errors import UserError
from training.loop.config_file import flag, load_config

app = typer.Typer()

_SPLIT_NAME = "--split-name"
# Of the configuration of a run, what matters to its frozen features.
_FIELDS = (
    "data", "weights", "image_size", "resize", "resize_size", "label_column", "image_column",
    "split_column", "allow_conflicting_labels", "val_fraction", "test_fraction", "split_by",
    "exclude", "max_bad_fraction", "cache_dir", "cache_limit", "seed", "device", "mixed_precision",
    "num_workers",
)  # fmt: skip
SuspectsOption = Annotated[
    Path | None,
    typer.Option(
        "--suspects",
        help="CSV file to write: suspect labels, for 'train --exclude' and 'label --from'.",
    ),
]


@app.command(rich_help_panel=panels.IMAGES)
@config_flags(_FIELDS)
def probe(
    config: Annotated[
        Path | None, typer.Option(help="YAML file with flags as keys, that of a run for example.")
    ] = None,
    split_name: SplitNames = None,
    json: Annotated[Path | None, typer.Option("--json", help="JSON file to write.")] = None,
    page: Annotated[
        Path | None, typer.Option(help="HTML file to write: the same with plots and pictures.")
    ] = None,
    suspects: SuspectsOption = None,
    **values: Any,
) -> None:
    """See what to unfreeze, what more images would bring, and which labels are wrong.

    Example: `vgg19 probe --data flowers`

    One pass through the network, and a linear classifier at each depth of it, judged by what the
    training images say of each other. Images held out to validate and test are not looked at.
    """
    from cli.probe_table import print_probe
    from training.probe import probe as room
    from training.probe.report import write_json, write_page
    from training.probe.suspects import write_suspects

    check_writable(json, page, suspects)
    values["split_names"] = split_names(split_name)
    values = given(values)
    found = room.probe(
        load_config(config, values), reporter(), train=_train_command(config, values)
    )
    print_probe(found)
    if json is not None:
        write_json(found, json)
    if page is not None:
        write_page(found, page)
        say(f"page written to {page}")
    if suspects is not None:
        write_suspects(found.suspects, suspects)
        say(f"{suspects} has {len(found.suspects)} suspect labels")


def _train_command(config: Path | None, values: dict[str, Any]) -> str:
    """`vgg19 train` with the same options."""
    words = ["vgg19", "train", *(["--config", str(config)] if config else [])]
    for name, value in values.items():
        if isinstance(value, dict):
            words += [word for own, to in value.items() for word in (_SPLIT_NAME, f"{own}={to}")]
        elif isinstance(value, bool):
            words.append(flag(name) if value else f"--no-{flag(name)[2:]}")
        else:
            words += [flag(name), str(value)]
    return shlex.join(words)


def check_labels(values: dict[str, Any], suspects: Path | None) -> None:
    """Look for wrong labels alone, as `vgg19 probe` does.

    Args:
        values: fields of a run's configuration.
        suspects: CSV file to write.
    """
    from cli.probe_table import print_suspects
    from training.probe import probe as room
    from training.probe.suspects import write_suspects

    found = room.probe(load_config(None, given(values)), reporter(), train="vgg19 train")
    print_suspects(found)
    if suspects is not None:
        write_suspects(found.suspects, suspects)


def check_writable(*files: Path | None) -> None:
    """Raise UserError where a file that is to be written has no directory, before the work."""
    for file in files:
        if file is not None and (file.is_dir() or not file.absolute().parent.is_dir()):
            raise UserError(f"{file} can't be written; name a file in a directory that exists")
