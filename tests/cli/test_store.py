from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cli.main import app
from models.registry import store
from testing.bundles import write_tiny_bundle


def lines(*arguments: str) -> list[dict[str, Any]]:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture
def tags(store_home: Path, tmp_path: Path) -> list[str]:
    bundles = [write_tiny_bundle(tmp_path / name, created_at=at) for name, at in BUNDLES.items()]
    registered = [store.register(bundle) for bundle in bundles]
    store.promote(registered[0])
    return registered


BUNDLES = {"first": "2026-01-01T00:00:00+00:00", "second": "2026-02-01T00:00:00+00:00"}


def test_models_as_json_lines(tags: list[str]) -> None:
    found = {row["tag"]: row for row in lines("models", "--json")}
    assert set(found) == set(tags)
    assert [found[tag]["production"] for tag in tags] == [True, False]
    for row in found.values():
        assert datetime.fromisoformat(row["created_at"])
        assert row["classes"] == 3
        assert row["size_bytes"] > 1_000


def test_a_diff_as_json_lines(tags: list[str]) -> None:
    rows = lines("diff", *tags, "--json")
    assert {"what": "created", "first": BUNDLES["first"], "second": BUNDLES["second"]} in rows
    assert lines("diff", tags[0], tags[0], "--json") == []


def test_a_history_as_json_lines(tags: list[str]) -> None:
    (row,) = lines("history", "--json")
    assert f"vgg19:{row['version']}" == tags[0]


@pytest.mark.usefixtures("store_home")
def test_an_empty_store_has_no_lines() -> None:
    assert lines("models", "--json") == []
