from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from models import captured, locations
from models.captured import captured_images


def compared(monkeypatch: pytest.MonkeyPatch, place: Path, count: int) -> int:
    """How many names of files are compared while so many captured images are listed."""
    comparisons = 0

    class Name(str):
        __slots__ = ()
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            nonlocal comparisons
            comparisons += 1
            return str.__eq__(self, other)

    place.mkdir()
    record = {"predictions": [{"label": "tulip", "probability": 0.5}]}
    for number in range(count):
        (place / f"{number:04}.img").write_bytes(b"x")
        (place / f"{number:04}.json").write_text(json.dumps(record))
        if number % 2:
            (place / f"{number:04}.label.json").write_text(json.dumps({"label": "rose"}))

    def listed(files: Any, root: str) -> list[tuple[str, int]]:
        return [(Name(name), size) for name, size in locations.list_files(files, root)]

    monkeypatch.setattr(captured, "list_files", listed)
    images = captured_images(str(place))
    monkeypatch.undo()
    assert [image.label for image in images] == [None, "rose"] * (count // 2)
    return comparisons


def test_twice_the_images_take_twice_the_comparisons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = compared(monkeypatch, tmp_path / "few", 200)
    assert 0 < compared(monkeypatch, tmp_path / "many", 400) < 2.5 * few
