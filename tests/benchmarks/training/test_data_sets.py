from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.training import data_sets
from benchmarks.training.data_sets import MissingPackageError, Picture, write


def made_up(_: Path) -> list[Picture]:
    """Pairs of two classes, each pair of one brightness, and a copy of each under another name."""
    return [
        Picture(Image.new("RGBA", (80, 40), (number, side, copy % 1, 255)), label, f"pair {number}")
        for number in range(30)
        for side, label in enumerate(("left", "right"))
        for copy in (0, 1)
    ]


def test_groups_stay_on_one_side_and_copies_come_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(data_sets.DATA_SETS, "made up", made_up)
    monkeypatch.setattr(data_sets, "TRAIN_IMAGES", 20)
    monkeypatch.setattr(data_sets, "VAL_IMAGES", 20)
    folder = write("made up", tmp_path, root=Path("/"), seed=0)
    sides: dict[int, set[str]] = defaultdict(set)
    files = sorted(folder.rglob("*.png"))
    for file in files:
        pixels = np.asarray(Image.open(file))
        assert pixels.shape == (32, 64, 3)
        sides[int(pixels[0, 0, 0])].add(file.parts[-3])
    assert len(files) == 60
    assert all(len(splits) == 1 for splits in sides.values())
    assert {split: len([*(folder / split).rglob("*.png")]) for split in data_sets.SPLITS} == {
        "train": 20, "val": 20, "test": 20,
    }  # fmt: skip


def test_a_package_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingPackageError, match="Debian's package ruby-gemojione"):
        write("emoji", tmp_path / "sets", root=tmp_path, seed=0)
    assert not (tmp_path / "sets" / "emoji-0").exists()
