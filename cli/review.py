"""`vgg19 review`: the page on which people label, correct and confirm."""

from __future__ import annotations

import getpass
import secrets
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import panels
from cli.common import reporter, say
from cli.config_flags import config_flags, given
from cli.data_options import SplitNames, split_names
from models.errors import UserError
from training.loop.config import TrainConfig
from training.loop.config_file import load_config, write_config

if TYPE_CHECKING:
    from review.session import Session
    from training.review.pool import NetworkPool

app = typer.Typer()

# Of the configuration of a run, what matters to its frozen features.
_FIELDS = (
    "data", "weights", "image_size", "resize", "resize_size", "label_column", "image_column",
    "split_column", "allow_conflicting_labels", "val_fraction", "test_fraction", "split_by",
    "exclude", "max_bad_fraction", "cache_dir", "cache_limit", "seed", "device", "mixed_precision",
    "num_workers",
)  # fmt: skip
# How a challenger differs from the configuration that the review was started with: it reads the
# table of the labels, and trains the head alone, from the fit that the page has shown. What a run
# of more layers may have asked for keeps a head from beginning so (`training.probe.head_start`),
# and one epoch from random weights is no challenger.
_CHALLENGER: dict[str, Any] = {
    "label_column": "label", "image_column": None, "split_column": "split", "split_names": {},
    "strategy": "head", "unfreeze": (), "unfreeze_epochs": None, "epochs": 1,
    "head_init": "ridge", "class_weights": "none", "balanced_sampling": False,
    "mixup": 0.0, "cutmix": 0.0,
}  # fmt: skip
# What exit codes of `vgg19 redeploy` mean that are no failure of it (docs/redeploy.md).
_ENDINGS = {
    "redeploy": {
        3: "no new model: the gate refused the challenger, or too few images could judge it",
        4: "the challenger failed in a running service, and was rolled back",
        5: "the challenger answers in production's shadow; start this again later to go on",
    }
}
_LOG = "jobs.log"
_TABLE, _CAPTURED_TABLE = "labels.csv", "captured.csv"


@app.command(rich_help_panel=panels.IMAGES)
@config_flags(_FIELDS)
def review(
    config: Annotated[
        Path | None, typer.Option(help="YAML file with flags as keys, that of a run for example.")
    ] = None,
    folder: Annotated[
        list[Path] | None, typer.Option(help="Folder of images without labels. May be repeated.")
    ] = None,
    capture: Annotated[
        str | None, typer.Option(help="Where the service captures images: VGG19_CAPTURE_URL.")
    ] = None,
    class_name: Annotated[
        list[str] | None, typer.Option("--class", help="A class to choose. May be repeated.")
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder of the decisions and their table.")] = Path(
        "runs/review"
    ),
    redeploy: Annotated[
        Path | None, typer.Option(help="Configuration of 'vgg19 redeploy', to start it here.")
    ] = None,
    who: Annotated[
        str | None, typer.Option(help="Name to begin with.  [default: the user's]")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Decisions between two fits.")] = 10,
    import_file: Annotated[
        Path | None,
        typer.Option("--import", help="JSON of Label Studio, whose annotations become decisions."),
    ] = None,
    host: Annotated[str, typer.Option(help="IP address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the page.")] = 3003,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Another name that the page is reached by. May be repeated."),
    ] = None,
    key_file: Annotated[
        Path | None,
        typer.Option(help="File with the key to ask for.  [default: a new one beyond loopback]"),
    ] = None,
    split_name: SplitNames = None,
    **values: Any,
) -> None:
    """Label and correct images on a page, those first whose labels bring most.

    Example: `vgg19 review --data flowers --folder new-photos`

    After each batch the head is fitted again, and the page shows what that changed.
    """
    from cli.launch import check_port
    from models.loopback import is_loopback
    from review.journal import JOURNAL_FILE, Journal
    from review.session import Session
    from training.review.jobs import Jobs
    from training.review.workbench import LocalWorkbench

    values["split_names"] = split_names(split_name)
    values = given(values)
    if redeploy is not None and not redeploy.is_file():
        raise UserError(f"--redeploy {redeploy} is no file; 'vgg19 redeploy --init' writes one")
    key = _key(key_file, needed=not is_loopback(host))
    check_port(host, port)
    name = who or _user()
    pool = _pool(config, values, folder or [], capture)
    jobs = Jobs(
        _commands(output, config, values, redeploy), output / _TABLE, output / _LOG, _ENDINGS
    )
    captured = None if capture is None else (output / _CAPTURED_TABLE, capture)
    journal = Journal(output / JOURNAL_FILE)
    session = Session(
        pool,
        journal,
        workbench=LocalWorkbench(pool, jobs, captured),
        classes=class_name or (),
        batch=batch,
        who=name,
    )
    try:
        if import_file is not None:
            say(f"{session.take(import_file, name)} decisions taken from {import_file}")
        _serve(session, host, port, allow_host or [], key, key_file)
    finally:
        jobs.close()
        session.close()
        journal.close()


def _pool(
    config: Path | None, values: dict[str, Any], folders: list[Path], capture: str | None
) -> NetworkPool:
    from training.review.pool import load_pool

    labelled = "data" in values or config is not None
    if not labelled:  # a configuration names some; these are not read as such
        values = values | {"data": folders[0] if folders else Path.cwd()}
    settings = load_config(config, values)
    return load_pool(settings, reporter(), labelled=labelled, folders=folders, capture=capture)


def _commands(
    output: Path, config: Path | None, values: dict[str, Any], redeploy: Path | None
) -> dict[str, Callable[[], Iterable[list[str]]]]:
    """What the page can start."""
    jobs: dict[str, Callable[[], Iterable[list[str]]]] = {
        "challenger": lambda: challenger_commands(output, config, values)
    }
    if redeploy is not None:
        jobs["redeploy"] = lambda: [[_vgg19(), "redeploy", "--config", str(redeploy)]]
    return jobs


def challenger_commands(
    output: Path, config: Path | None, values: dict[str, Any]
) -> Iterator[list[str]]:
    """Fit the head in closed form, on a network as it is served, and let an epoch better it; prove
    its graph; put it into the store, and into the shadow of what is in production, if anything is.

    Args:
        output: with the table of labels; the run goes there, under a new name, and its
            configuration beside it.
        config: file that the review was started with. values: flags that were given besides.

    Raises:
        StoreError: a shadow or a canary runs, which there is only one of.
    """
    from models.bundle.bundle import inspect_bundle
    from models.registry import shadowing, store

    shadowing.check_place()
    run = output / f"challenger-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    file = run.with_suffix(".yaml")
    write_config(_challenger(output / _TABLE, run, config, values), file)
    yield [_vgg19(), "train", "--config", str(file)]
    yield [_vgg19(), "export", str(run)]
    yield [_vgg19(), "register", str(run)]
    if store.production_version_or_none() is not None:
        # By its version: `latest` may be another's by now.
        yield [_vgg19(), "shadow", store.version_of(inspect_bundle(run / "bundle"))]


def _challenger(table: Path, run: Path, config: Path | None, values: dict[str, Any]) -> TrainConfig:
    settings = load_config(config, values | {"data": str(table), "output": str(run)})
    return settings.model_copy(update=_CHALLENGER).absolute()


def _vgg19() -> str:
    return str(Path(sys.executable).with_name("vgg19"))


def _key(file: Path | None, *, needed: bool) -> str | None:
    if file is None:
        return secrets.token_urlsafe(24) if needed else None
    try:
        key = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--key-file {file} can't be read: {error}") from None
    if not (key and key.isascii() and key.isprintable()):
        raise UserError(f"--key-file {file} must hold a key: letters, digits and signs of ASCII")
    return key


def _serve(
    session: Session, host: str, port: int, names: list[str], key: str | None, key_file: Path | None
) -> None:
    import uvicorn

    from cli.launch import page_address
    from review.app import make_app
    from review.guard import own_hosts

    app = make_app(session, own_hosts(host, port, names), key)
    server = uvicorn.Server(
        # Its own logging would close all handlers that there are; TensorBoard's closes its stream.
        uvicorn.Config(
            app, host=host, port=port, log_config=None, log_level="warning", server_header=False
        )
    )
    # A new key is told nowhere else; who wrote one into a file knows it, and logs shouldn't.
    address = page_address(host, port) + (f"/#{key}" if key and key_file is None else "")
    say(f"the page is at {address}; end with Ctrl-C")
    with _ends_well():
        server.run()


@contextmanager
def _ends_well() -> Iterator[None]:
    """Ctrl-C is how one ends the page. The server ends in good order and then raises the signal
    again, for whoever handled it before."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: None) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return "somebody"
