"""`testing.thin_cli` as an executable file, which is also what it starts itself."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path


def write_command(path: Path) -> Path:
    """An executable file that is this command."""
    here = shlex.quote(sys.executable)
    root = shlex.quote(str(Path(__file__).parents[1]))
    path.write_text(f'#!/bin/sh\nPYTHONPATH={root} exec {here} -m tests.thin_command "$0" "$@"\n')
    path.chmod(0o755)
    return path


def _main() -> None:
    import cli.main
    import cli.review
    import testing.thin_cli  # noqa: F401  # here: it makes the network of its process thin

    own = sys.argv.pop(1)
    vars(cli.review)["_vgg19"] = lambda: own
    sys.argv[0] = own
    cli.main.main()


if __name__ == "__main__":
    _main()
