"""`vgg19 register`, `promote` and `rollback` killed before each step that changes files.

    python -m reliability.store

For each command, a store with two models is made, and the command killed in a child before its
first step (with SIGKILL), then before its second, and last when all is done. After each kill the
store must list whole versions only, production must be the old or the new one with its history, and
the command must do its work when it is given again and leave nothing of the killed one's files. (A
rollback that had moved production is not given again: it would go back further.)
"""

from __future__ import annotations

import argparse
import contextlib
import io
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cli import main as cli
from models import bentoml_adapter
from models.bundle.bundle import open_bundle
from models.errors import UserError
from models.registry import store
from reliability.killing import in_child, killed
from reliability.outcomes import FAILED, BrokenPromiseError, Outcome, report
from testing.bundles import write_tiny_bundle

COMMANDS = ("register", "promote", "rollback")


@dataclass(frozen=True)
class Scene:
    """A place with a bundle that is not registered, and a store whose models are `old`, `new`.

    `before`, `after`: production, without the command and with it.
    """

    command: tuple[str, ...]
    versions: tuple[str, ...]
    added: str | None
    before: str
    after: str
    place: Path

    @property
    def home(self) -> Path:
        return self.place / "bentoml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("commands", nargs="*", default=COMMANDS, metavar="|".join(COMMANDS))
    parser.add_argument("--every", type=int, default=1, help="kill before each such step only")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", "This process", DeprecationWarning)  # fork beside threads
    kept = []
    for command in options.commands:
        with tempfile.TemporaryDirectory(prefix="vgg19-reliability-") as directory:
            kept.append(
                report(f"SIGKILL in {command}", trials(Path(directory), command, options.every))
            )
    sys.exit(0 if all(kept) else 1)


def trials(place: Path, command: str, every: int = 1) -> Iterator[Outcome]:
    """Kill a command before its first step, and before every `every`th after it."""
    scene = _set_scene(place / "scene", command)
    step = 1
    while True:
        with _copy(scene, place / "trial") as trial:
            if not killed(lambda: _vgg19(trial, *trial.command), step):
                return
            try:
                what = _look(trial)
            except (BrokenPromiseError, UserError) as error:
                yield Outcome(FAILED, f"killed before step {step}: {error}")
            else:
                yield Outcome(what, f"killed before step {step}")
        step += every


def _set_scene(place: Path, command: str) -> Scene:
    days = {"old": "2026-02-01", "new": "2026-02-02", "third": "2026-02-03"}
    bundles = {
        name: write_tiny_bundle(place / name, f"{day}T12:00:00+00:00") for name, day in days.items()
    }
    (place / "bentoml" / "models").mkdir(parents=True)
    with _in_store(place / "bentoml"):
        old, new = (store.register(bundles[name]).partition(":")[2] for name in ("old", "new"))
        store.promote(old)
        if command == "rollback":
            store.promote(new)
        added = store.version_of(open_bundle(bundles["third"]))
    arguments = {"register": ("third",), "promote": (new,), "rollback": ()}[command]
    before, after = {"register": (old, old), "promote": (old, new), "rollback": (new, old)}[command]
    return Scene(
        (command, *arguments), (old, new), added if command == "register" else None,
        before, after, place,
    )  # fmt: skip


def _look(scene: Scene) -> str:
    """What a user finds, and finds after having given the command again; in words."""
    listed = _check_store(scene)
    with _in_store(scene.home):
        done = scene.added in listed if scene.added else store.production_version() == scene.after
    if not (done and scene.command[0] == "rollback"):
        _check(in_child(lambda: _vgg19(scene, *scene.command)) == 0, "it fails when given again")
    listed = _check_store(scene)
    _check(scene.added is None or scene.added in listed, "it isn't there")
    with _in_store(scene.home):
        _check(store.production_version() == scene.after, "production is another")
        newest = scene.added or scene.versions[-1]
        _check((scene.home / "models" / "vgg19" / "latest").read_text() == newest, "latest is old")
    left = sorted(path.name for path in scene.home.glob(".vgg19-*"))
    _check(not left or scene.added is None, f"left behind: {', '.join(left)}")
    return "done before it was killed" if done else "not done, done when given again"


def _check_store(scene: Scene) -> set[str]:
    """Look with the store's functions and with `vgg19 models`; the versions that are there."""
    with _in_store(scene.home):
        listed = {model.version for model in store.list_models()}
        allowed = {*scene.versions, *([scene.added] if scene.added else [])}
        _check(set(scene.versions) <= listed <= allowed, f"versions are {sorted(listed)}")
        for version in listed:
            store.open_stored(version)
        production = store.production_version()
        _check(production in (scene.before, scene.after), f"production is {production}")
        _check(store.promotions()[0].version == production, "the history has another end")
    _check(in_child(lambda: _vgg19(scene, "models")) == 0, "vgg19 models fails")
    return listed


def _vgg19(scene: Scene, *arguments: str) -> None:
    """The command, in this process, which is a child."""
    bentoml_adapter.choose_store_directory(scene.home / "models")
    sys.argv = ["vgg19", *arguments]
    with contextlib.chdir(scene.place), contextlib.redirect_stdout(io.StringIO()):
        cli.main()


@contextlib.contextmanager
def _copy(scene: Scene, place: Path) -> Iterator[Scene]:
    shutil.copytree(scene.place, place)
    yield Scene(scene.command, scene.versions, scene.added, scene.before, scene.after, place)
    shutil.rmtree(place)


@contextlib.contextmanager
def _in_store(home: Path) -> Iterator[None]:
    bentoml_adapter.choose_store_directory(home / "models")
    try:
        yield
    finally:
        bentoml_adapter.choose_store_directory(None)


def _check(kept: bool, otherwise: str) -> None:
    if not kept:
        raise BrokenPromiseError(otherwise)


if __name__ == "__main__":
    main()
