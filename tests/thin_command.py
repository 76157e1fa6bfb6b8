"""The `vgg19` command whose network is `testing.small_vgg.thin_vgg19`: all of it but the width.

    python -m tests.thin_command train ...

What it starts itself, from the page of reviews, is this command again.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from testing.small_vgg import thin_vgg19


def write_command(path: Path) -> Path:
    """An executable file that is this command."""
    here = shlex.quote(sys.executable)
    root = shlex.quote(str(Path(__file__).parents[1]))
    path.write_text(f'#!/bin/sh\nPYTHONPATH={root} exec {here} -m tests.thin_command "$0" "$@"\n')
    path.chmod(0o755)
    return path


def _main() -> None:
    import cli.review
    import models.network.vgg19
    from cli.main import main

    own = sys.argv.pop(1)
    vars(models.network.vgg19)["vgg19"] = thin_vgg19
    vars(cli.review)["_vgg19"] = lambda: own
    sys.argv[0] = own
    main()


if __name__ == "__main__":
    _main()
