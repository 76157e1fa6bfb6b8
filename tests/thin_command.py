"""`testing.thin_cli` as an executable file, which is also what it starts itself."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import cli.review
from testing import thin_cli


def write_command(path: Path) -> Path:
    """An executable file that is this command."""
    here = shlex.quote(sys.executable)
    root = shlex.quote(str(Path(__file__).parents[1]))
    path.write_text(f'#!/bin/sh\nPYTHONPATH={root} exec {here} -m tests.thin_command "$0" "$@"\n')
    path.chmod(0o755)
    return path


def _main() -> None:
    own = sys.argv.pop(1)
    vars(cli.review)["_vgg19"] = lambda: own
    sys.argv[0] = own
    thin_cli.main()


if __name__ == "__main__":
    _main()
