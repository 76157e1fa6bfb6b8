"""The environment's commands, run as a user would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def run_command(*arguments: str, cwd: Path, home: Path) -> subprocess.CompletedProcess[str]:
    """Run one of the environment's commands (`vgg19`, `bentoml`) as a user would."""
    command = [str(Path(sys.executable).with_name(arguments[0])), *arguments[1:]]
    environment = os.environ | {
        "BENTOML_HOME": str(home),
        "BENTOML_DO_NOT_TRACK": "True",
        "COLUMNS": "160",
    }
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=280
    )


def vgg19(home: Path, *arguments: str) -> str:
    """Run the `vgg19` command on a BentoML home; what it printed.

    Raises:
        RuntimeError: it failed, with what it said.
    """
    result = run_command("vgg19", *arguments, cwd=home.parent, home=home)
    if result.returncode:
        raise RuntimeError(result.stderr)
    return result.stdout
