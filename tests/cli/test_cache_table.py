from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from testing.commands import run_command
from training.features.cache import FeatureFile, FeatureKey


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    for name, augmentation in (("classifier.0", None), ("features.28", {"view": 1})):
        key = FeatureKey(
            {"before": name, "augmentation": augmentation}, 1500, (16,), "float32", 1000
        )
        with FeatureFile(tmp_path / "cache", key) as file:
            file.write(next(file.claim([0], wait=True)), np.ones((1000, 16), np.float32))
    return tmp_path / "cache"


def test_list_and_clear(tmp_path: Path, cache: Path) -> None:
    def run(*arguments: str) -> str:
        result = run_command(
            "vgg19", "cache", *arguments, "--cache-dir", str(cache), cwd=tmp_path, home=tmp_path
        )
        return result.stdout + result.stderr

    listing = run("list")
    rows = {line.split()[1]: line.split() for line in listing.splitlines()[1:3]}
    assert rows["classifier.0"][2:6] == ["1,500", "no", "float32", "50%"]
    assert rows["features.28"][2:7] == ["1,500", "view", "2", "float32", "50%"]
    assert f"2 in {cache}, 0 MB" in listing

    assert run("clear", "nonsense").startswith(f"error: nothing in {cache} is called nonsense")
    assert run("clear", rows["features.28"][0]).startswith("removed 1 from")
    assert "features.28" not in run("list")
    assert run("clear").startswith("removed 1 from")
    assert list(cache.iterdir()) == []
    assert run("list") == f"0 in {cache}, 0 MB\n"
