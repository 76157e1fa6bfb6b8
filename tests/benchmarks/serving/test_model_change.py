from __future__ import annotations

import pytest

from benchmarks.serving.model_change import (
    PHASES,
    Change,
    Plan,
    Request,
    markdown,
    phase_of,
    possible,
    run,
    summary,
)
from benchmarks.serving.two_versions import two_versions
from benchmarks.serving.workload import SMALL

CHANGES = [Change("b", 10.0, 12.0), Change("a", 20.0, 22.0)]


@pytest.mark.parametrize(
    ("due", "ended", "phase", "versions"),
    [
        (8.0, 9.9, "before", "a"),
        (9.0, 10.1, "during", "ab"),  # it was due before, and may have been held up
        (11.0, 11.1, "during", "ab"),
        (11.9, 15.0, "during", "ab"),
        (12.0, 12.1, "after", "b"),
        (12.5, 19.0, "after", "b"),
        (12.5, 23.0, "during", "ab"),
        (22.5, 23.0, "after", "a"),
        (9.0, 30.0, "during", "ab"),
    ],
)
def test_a_request_is_of_the_change_that_any_part_of_it_fell_into(
    due: float, ended: float, phase: str, versions: str
) -> None:
    request = Request(due, ended, "a")
    assert phase_of(request, CHANGES) == phase
    assert set(possible(request, CHANGES, "a")) == set(versions)


def test_times_count_from_when_a_request_was_due_and_none_is_left_out() -> None:
    requests = [Request(number / 100, number / 100 + 0.010, "a") for number in range(100)]
    requests += [Request(9.9, 10.9, "b"), Request(15.0, 15.015, "b"), Request(23.0, 23.1, "b")]
    requests += [Request(24.0, 24.1, problem="503: busy")]
    found = summary(requests, CHANGES, "a")
    rows = found["phases"]
    assert list(rows) == list(PHASES)
    assert [rows[phase]["requests"] for phase in PHASES] == [100, 1, 3]
    assert (rows["before"]["p50_ms"], rows["before"]["p99_ms"]) == (10.0, 10.0)
    assert rows["during"]["max_ms"] == 1000.0
    assert rows["during"]["p99_by_before"] == 100.0
    assert rows["after"]["p99_ms"] == 100.0  # the largest of few, not a mean
    assert (found["errors"], found["first_errors"]) == (1, ["503: busy"])
    assert found["wrong_versions"] == 1  # the last but one is of a version that has gone
    assert found["answers"] == {"a": 100, "b": 3}


def test_without_requests_of_a_phase_there_is_a_table_all_the_same() -> None:
    report = summary([], [], "a") | {"rate_per_second": 1.0, "others_cores": 0.0}
    rows = [line for line in markdown(report).splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0].strip("| ") for row in rows[1:]] == list(PHASES)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_real_service_through_two_changes() -> None:
    """How fast it is is no matter here: the model is tiny, and other tests run meanwhile."""
    with two_versions("tiny", 32) as (home, tags):
        report = run(home, tags, Plan(2, 1.0, 0.5, 20.0), image=SMALL)
    assert (report["errors"], report["wrong_versions"]) == (0, 0), report
    assert report["changes"] == 2
    assert report["rate_per_second"] == 20.0
    counts = [report["phases"][phase]["requests"] for phase in PHASES]
    assert all(counts)
    versions = {tag.rpartition(":")[2] for tag in tags}
    assert set(report["answers"]) == versions
    assert sum(counts) == sum(report["answers"].values())
