"""Optional packages: how to install the one that is missing, in words that work where they are
read."""

from __future__ import annotations

import shlex
from pathlib import Path

_ROOT = Path(__file__).parents[1]

# The extras that messages ask for. `pip install NAME[EXTRA]` is no advice: the
# project isn't on PyPI, and its name could be somebody else's there.
EXTRAS = {
    "cpu-fast": ("ncnn",),
    "hf": ("datasets",),
    "openvino": ("openvino",),
    "ray": ("ray[data]",),
    "s3": ("s3fs",),
    "sign": ("model-signing", "pyopenssl"),
}


def install_command(extra: str) -> str:
    """The command that installs an extra: in a clone with its tested floors (`pip install -e
    '.[openvino]'`), elsewhere, as in an image, its packages by name.

    Args:
        extra: a key of `EXTRAS`.
    """
    if (_ROOT / "pyproject.toml").is_file():
        clone = "." if Path.cwd() == _ROOT else str(_ROOT)
        return f"pip install -e '{clone}[{extra}]'"
    return shlex.join(["pip", "install", *EXTRAS[extra]])
