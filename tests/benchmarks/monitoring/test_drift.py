from __future__ import annotations

import pytest

from benchmarks.monitoring.drift import FALSE_ALARM_SEEDS, _seeds


def test_how_many_seeds_are_asked_for() -> None:
    assert _seeds([]) == FALSE_ALARM_SEEDS
    assert _seeds(["3"]) == 3


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--help"], 0, "usage: python -m benchmarks.monitoring.drift"),
        (["many"], 2, "invalid int value: 'many'"),
        (["0"], 2, "SEEDS is 0, it must be 1 or more"),
    ],
)
def test_help_is_no_number_and_mistakes_are_told(
    words: list[str], code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        _seeds(words)
    assert ended.value.code == code
    shown = capsys.readouterr()
    assert says in shown.out + shown.err
