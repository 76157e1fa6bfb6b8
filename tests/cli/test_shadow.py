from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cli import shadow, store
from models.errors import StoreError, UserError
from models.monitoring.comparison import Comparison, Opinion
from models.registry import shadowing
from models.registry import store as registry
from models.registry.tallies import Picture, Pictures, ShadowTally, write_pictures, write_tally
from testing.bundles import write_tiny_bundle

PNG = (  # 1 x 1
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJg"
    "gg=="
)


@pytest.fixture
def tags(store_home: Path, tmp_path: Path) -> list[str]:
    """Two versions, of which the first is in production."""
    found = [
        registry.register(
            write_tiny_bundle(tmp_path / str(day), created_at=f"2026-01-0{day}T00:00:00+00:00")
        )
        for day in (1, 2)
    ]
    registry.promote(found[0])
    return found


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(shadow.app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.stdout


def promote(*arguments: str) -> Result:
    return CliRunner().invoke(store.app, ["promote", *arguments])


def write_counts(images: int, agreed: int, slower: float = 1.0) -> None:
    current = shadowing.current_shadow()
    assert current is not None
    counts = Comparison()
    for number in range(images):
        label = "red" if number < agreed else "<b>blue"
        counts.add(Opinion("red", 0.9, True, 0.5), Opinion(label, 0.8, True, 0.6))
    counts.production.alone.add(0.1)
    counts.candidate.alone.add(0.1 * slower)
    tally = ShadowTally(worker="w", state="running", comparison=counts)
    write_tally(shadowing.directory(), current.id, "w", tally.model_dump_json())
    picture = Picture(
        png=PNG, difference=0.5, production="red", candidate="<b>blue",
        production_confidence=0.9, candidate_confidence=0.8,
    )  # fmt: skip
    write_pictures(shadowing.directory(), current.id, "w", Pictures(pictures=[picture]))


def test_from_the_shadow_to_production(tags: list[str], tmp_path: Path) -> None:
    run(tags[1], "--min-images", "10", "--min-hours", "0")
    assert "not yet" in run(code=5)
    assert isinstance(refused := promote(tags[1]).exception, StoreError)
    assert "its shadow: images in the shadow: 0, must be 10 or more" in str(refused)
    write_counts(10, 7)
    assert "fails" in run(code=3)
    write_counts(10, 9)
    assert "holds" in run()
    shown = json.loads(run("--json"))
    assert (shown["outcome"], shown["agreement"]) == ("passed", 0.9)
    report = tmp_path / "report.html"
    run("--report", str(report))
    page = report.read_text()
    assert "&lt;b&gt;blue" in page
    assert "<b>blue" not in page
    assert PNG in page
    assert promote(tags[1]).exit_code == 0
    assert shadowing.current_shadow() is None  # ended with the promotion
    assert [event.what for event in shadowing.rollouts().events()] == ["promoted", "begun"]


def test_one_that_crashed_in_a_worker_is_refused(tags: list[str]) -> None:
    """Though the others have counted enough."""
    run(tags[1], "--min-images", "10", "--min-hours", "0")
    write_counts(10, 10)
    run()
    current = shadowing.current_shadow()
    assert current is not None
    crashed = ShadowTally(worker="x", state="failed", reason="its process ended by SIGSEGV")
    write_tally(shadowing.directory(), current.id, "x", crashed.model_dump_json())
    assert "SIGSEGV" in run(code=3)
    assert "workers that disabled it: 1" in str(promote(tags[1]).exception)


def test_a_look_where_nothing_runs(tags: list[str]) -> None:
    assert "no shadow is running" in run()
    assert run("--json") == "{}\n"
    run(tags[1])
    assert "is in no shadow any more" in run("--stop")
    assert "no shadow was running" in run("--stop")


def test_what_cannot_be_begun(tags: list[str]) -> None:
    with pytest.raises(StoreError, match="is in production; name another version"):
        run(tags[0])
    with pytest.raises(StoreError, match="no model vgg19:nothing"):
        run("nothing")
    with pytest.raises(UserError, match="^--min-agreement: .* less than or equal to 1"):
        run(tags[1], "--min-agreement", "2")
    run(tags[1])
    with pytest.raises(StoreError, match="a shadow of .* runs already"):
        run(tags[1])


def test_force_promotes_against_the_rule(tags: list[str]) -> None:
    run(tags[1])
    assert promote(tags[1], "--force").exit_code == 0


def test_force_promotes_where_the_rollouts_are_damaged_and_says_both(tags: list[str]) -> None:
    run(tags[1])
    (shadowing.directory() / ".rollout.json").write_text("{")
    promoted = promote(tags[1], "--force")
    assert f"production is {tags[1]}" in promoted.stdout
    assert "'vgg19 shadow --stop' repairs it" in str(promoted.exception)
