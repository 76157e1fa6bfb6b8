from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.serving.beside_large import Plan, large_png, markdown, row, run
from benchmarks.serving.null_model import write_null_bundle
from testing.server import put_into_production


def test_a_turn() -> None:
    fast, slow = [0.010] * 99 + [0.020], [0.030] * 90 + [0.080] * 10
    alone = row(fast, [], None)
    assert (alone["requests"], alone["large"], alone["large_p50_ms"]) == (100, 0, 0.0)
    assert alone["p50_ms"] == pytest.approx(10)
    assert (alone["p50_by_alone"], alone["p99_by_alone"]) == (1, 1)
    beside = row(slow, [0.1, 0.4, 0.3], alone)
    assert beside["p50_by_alone"] == pytest.approx(3)
    assert beside["p99_by_alone"] == pytest.approx(4)
    assert (beside["max_ms"], beside["large_p50_ms"]) == pytest.approx((80, 300))


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_real_service(tmp_path: Path) -> None:
    """How fast it is is no matter here: other tests run meanwhile."""
    home = put_into_production(write_null_bundle(tmp_path / "bundle"))
    report = run(home, Plan(1, 1.0, 10.0, (2,)), large_png(1500))
    assert report["errors"] == []
    (alone,), (beside,) = report["turns"].values()
    assert alone["requests"] >= 1
    assert beside["requests"] >= 1
    assert (alone["large"], beside["large"] >= 2) == (0, True)
    table = markdown(report).splitlines()[-2:]
    assert [line.split(" | ")[0] for line in table] == ["| alone", "| beside 2 at once"]
