from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from models import extras
from models.extras import EXTRAS, install_command

ROOT = Path(__file__).parents[2]


def test_the_packages_are_those_of_the_extras() -> None:
    optional = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for extra, packages in EXTRAS.items():
        named = [re.split(r"[<>=]", requirement)[0] for requirement in optional[extra]]
        assert tuple(named) == packages


def test_in_a_clone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    assert install_command("openvino") == "pip install -e '.[openvino]'"
    monkeypatch.chdir(tmp_path)
    assert install_command("openvino") == f"pip install -e '{ROOT}[openvino]'"


def test_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(extras, "_ROOT", tmp_path)
    assert install_command("ray") == "pip install 'ray[data]'"
    assert install_command("sign") == "pip install model-signing pyopenssl"
