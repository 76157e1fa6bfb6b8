"""The command `vgg19`. Sees to it that its modules are this project's and Python's own, whatever
stands in the directory or in PYTHONPATH, before any of them is imported.

A project of a user's that has a models/ of its own, or an http.py, is no place to import from; one
that holds libraries is. A name of its own, this module's, is what makes that decidable: whatever is
called `cli` may be another one.
"""

from __future__ import annotations

import os
import sys

ROOT = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120  # pathlib isn't safe yet
PACKAGES = frozenset(
    {"cli", "models", "protocol", "review", "service", "serving", "training", "web", __name__}
)


def main() -> None:
    """Entry point."""
    for entry, name in guard_imports():
        print(
            f"warning: PYTHONPATH entry {entry} is left out: its '{name}' would be taken for "
            "another module of that name",
            file=sys.stderr,
        )
    from cli.main import main as run

    run()


def guard_imports() -> list[tuple[str, str]]:
    """Have this process and those that it starts import from libraries alone.

    Returns:
        the entries of PYTHONPATH that are left out, each with a module that is in the way.
    """
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    entries = [os.path.abspath(entry) for entry in given if entry]  # noqa: PTH100
    found = [(entry, _module_in_the_way(entry)) for entry in dict.fromkeys(entries)]
    left_out = [(entry, name) for entry, name in found if name]
    gone = {entry for entry, _ in left_out}
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) not in gone]  # noqa: PTH100
    os.environ["PYTHONPATH"] = os.pathsep.join(entry for entry, name in found if not name)
    if not os.environ["PYTHONPATH"]:
        del os.environ["PYTHONPATH"]
    os.environ["PYTHONSAFEPATH"] = "1"  # `python -m` looks into the working directory otherwise
    return left_out


def _module_in_the_way(entry: str) -> str:
    """What is in a directory and is another module's name; "" if nothing is."""
    if entry == ROOT:
        return ""
    installed = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    if entry in installed:
        return ""
    try:
        with os.scandir(entry) as items:
            content = sorted(items, key=lambda item: item.name)
    except OSError:  # not there, or a zip file
        return ""
    is_library = any(item.name.endswith((".dist-info", ".egg-info")) for item in content)
    for item in content:
        name, _, ending = item.name.partition(".")
        is_module = ending == "py" or ending.endswith(("so", "pyd"))
        if name in PACKAGES and (is_module or item.is_dir()):
            return item.name
        if not is_module and not os.path.isfile(os.path.join(item.path, "__init__.py")):  # noqa: PTH113, PTH118
            continue
        if name in sys.stdlib_module_names or (not is_library and _is_in(installed, name)):
            return item.name
    return ""


def _is_in(directories: list[str], name: str) -> bool:
    return any(
        os.path.exists(os.path.join(directory, name + ending))  # noqa: PTH110, PTH118
        for directory in directories
        for ending in ("", ".py")
    )
