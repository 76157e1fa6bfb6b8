from __future__ import annotations

from benchmarks.serving.results import Failure, Measurement, markdown, summarise

OURS, PEER, ALONE = "ours", "peer", "alone"
LOAD = "64 connections"


def measured(
    server: str, round_: int, rate: float, p99: float = 10.0, other_cores: float = 0.0
) -> Measurement:
    return Measurement(
        server, "null", LOAD, round_, rate, p99_ms=p99, errors=round_, other_cores=other_cores
    )


def test_medians_and_ratios_are_of_rounds_not_of_medians() -> None:
    """The ratio pairs what ran in the same round: a slow minute hits both."""
    measurements = [
        *(measured(OURS, i, rate) for i, rate in enumerate([100, 40, 90])),
        *(measured(PEER, i, rate) for i, rate in enumerate([50, 40, 30])),
    ]
    ours, peer = summarise(measurements, [LOAD], [OURS, PEER])
    assert ours.medians["requests_per_second"] == 90
    assert peer.medians["requests_per_second"] == 40
    assert peer.ours_by_this["requests_per_second"] == 2.0  # of 2, 1 and 3; medians give 2.25
    assert ours.ours_by_this["requests_per_second"] == 1.0
    assert peer.errors == 0 + 1 + 2


def test_rounds_that_others_disturbed_are_left_out_unless_all_were() -> None:
    measurements = [
        *(measured(OURS, i, rate) for i, rate in enumerate([100, 90, 80])),
        measured(PEER, 0, 50),
        measured(PEER, 1, 10, other_cores=0.9),
        measured(PEER, 2, 40, other_cores=0.1),
        measured(ALONE, 0, 7, other_cores=0.5),
    ]
    ours, peer, alone = summarise(measurements, [LOAD], [OURS, PEER, ALONE])
    assert (ours.rounds, peer.rounds, alone.rounds) == (3, 2, 1)
    assert peer.medians["requests_per_second"] == 45
    assert peer.ours_by_this["requests_per_second"] == 2.0
    assert peer.errors == 3  # of all rounds
    assert alone.medians["requests_per_second"] == 7


def test_a_round_without_ours_gives_no_ratio_and_zeros_are_no_divisor() -> None:
    measurements = [measured(OURS, 0, 10), measured(PEER, 0, 5, p99=0.0), measured(PEER, 1, 1000)]
    _, peer = summarise(measurements, [LOAD], [OURS, PEER])
    assert peer.ours_by_this["requests_per_second"] == 2.0
    assert "p99_ms" not in peer.ours_by_this


def test_the_table_has_a_row_each_in_the_given_order_and_tells_failures() -> None:
    measurements = [measured(PEER, 0, 5), measured(ALONE, 0, 20), measured(OURS, 0, 10)]
    rows = summarise(measurements, [LOAD], [OURS, PEER, ALONE])
    lines = markdown(rows, [Failure("Slow", "null", LOAD, 0, "not ready\nlog")]).splitlines()
    assert [line.split(" | ")[0] for line in lines if line.startswith("| o")] == ["| ours"]
    names = [line.split("|")[1].strip() for line in lines if line.startswith("| ")][1:]
    assert names == [OURS, PEER, ALONE]
    peer = next(line for line in lines if line.startswith("| peer"))
    assert peer.split("|")[2].strip() == "5.0"
    assert peer.split("|")[-2].strip() == "2.00"
    assert lines[-1] == f"Slow failed in '{LOAD}': not ready"
