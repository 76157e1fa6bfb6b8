from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from cli import canary, shadow
from models.monitoring.canary_tests import CanaryLimits
from models.registry import canaries, store
from models.registry.canaries import CanaryError
from testing.bundles import write_tiny_bundle

USAGE: type[Exception] = typer.BadParameter.__bases__[0]


@pytest.fixture
def tags(store_home: Path, tmp_path: Path) -> list[str]:
    """Two versions, of which the first is in production."""
    found = []
    for day in (1, 2):
        bundle = write_tiny_bundle(tmp_path / str(day), f"2026-01-0{day}T00:00:00+00:00")
        found.append(store.register(bundle))
    store.promote(found[0])
    return found


def run(*arguments: str) -> str:
    app = shadow.app if arguments[0] == "shadow" else canary.app
    result = CliRunner().invoke(app, list(arguments[1:]), standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return result.stdout


def test_begin_look_and_abort(tags: list[str]) -> None:
    assert "no canary is running" in run("canary")
    assert run("canary", "--json") == "{}\n"
    assert "answers 5% of the clients" in run("canary", tags[1], "--steps", "5,25,100")
    assert "0 requests so far; production, " in run("canary")
    shown = json.loads(run("canary", "--json"))
    assert (shown["percent"], shown["requests"], shown["production_requests"]) == (5, 0, 0)
    assert (shown["canary"]["wait_hours"], shown["canary"]["min_requests"]) == (1, 100)
    assert "production answers all again" in run("canary", "--abort")
    assert canaries.current_canary() is None


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ("canary latest --percent 5 --abort", "one of TAG, --abort and --json"),
        ("canary latest --percent 5 --json", "one of TAG, --abort and --json"),
        ("canary latest --percent 5 --wait-hours 2", "--wait-hours and --min-requests go with"),
        ("canary --wait-hours 2", "go with the TAG"),
        ("canary --abort --header X-User", "go with the TAG"),
        ("canary --limit failed=0.1", "go with the TAG"),
        ("canary latest --percent 5 --limit fail=0.1", "'fail=0.1' names none of failed, slow"),
        ("canary latest --percent 5 --limit slow", "limit of slow is ''; it must be a share"),
        ("canary latest --percent 5 --limit slow=1", "limit of slow is '1'; it must be a share"),
        ("canary latest --percent 5 --limit slow=nan", "limit of slow is 'nan'"),
        ("canary latest --steps 5,x", "'5,x' is no list like 5,25,100"),
        ("shadow latest --stop", "one of TAG, --stop, --report and --json"),
        ("shadow latest --json", "one of TAG, --stop, --report and --json"),
        ("shadow --report page.html --json", "one of TAG, --stop, --report and --json"),
    ],
)
def test_a_flag_that_would_be_ignored_is_refused(tags: list[str], arguments: str, why: str) -> None:
    with pytest.raises(USAGE, match=why):
        run(*arguments.split())
    assert canaries.current_canary() is None


def test_limits(tags: list[str]) -> None:
    run("canary", tags[1], "--percent", "5", "--limit", "failed=0.02", "--limit", "slow=any")
    begun = canaries.current_canary()
    assert begun is not None
    assert begun.limits == CanaryLimits(failed=0.02, slow=None)
    assert begun.percent == 5


def test_hours_that_never_end_are_a_users_mistake(tags: list[str]) -> None:
    with pytest.raises(CanaryError, match="wait_hours is inf"):
        run("canary", tags[1], "--steps", "5,100", "--wait-hours", "inf")
