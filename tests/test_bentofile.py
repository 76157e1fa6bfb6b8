"""bentofile.yaml against what it repeats."""

from __future__ import annotations

import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]


def test_the_packages_are_the_serving_dependencies() -> None:
    bentofile = yaml.safe_load((ROOT / "bentofile.yaml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert bentofile["python"]["packages"] == project["dependencies"]


def test_what_is_included_exists() -> None:
    bentofile = yaml.safe_load((ROOT / "bentofile.yaml").read_text())
    for name in bentofile["include"]:
        assert (ROOT / name).exists(), name
