from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.report import medians, save


def test_a_report_has_the_machine_and_what_was_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save("some", {"rate": 2.5})
    report = json.loads((tmp_path / "build/benchmarks/some.json").read_text())
    assert report["rate"] == 2.5
    assert report["machine"]["cores"] >= 1


def test_medians_are_of_each_figure_by_itself() -> None:
    rounds = {"ours": [{"a": 1.0, "b": 30.0}, {"a": 2.0, "b": 10.0}, {"a": 9.0, "b": 20.0}]}
    assert medians(rounds) == {"ours": {"a": 2.0, "b": 20.0}}
