from __future__ import annotations

import numpy as np

from models.monitoring.windows import HISTORY_HOURS, History, Windows

HOUR = 3600.0


def test_the_window_by_count_holds_the_last_images_and_little_more() -> None:
    windows = Windows(2, images=100)
    for number in range(60):
        windows.add(np.array([number, 5]), 5, now=0.0)
        held = windows.recent()[1]
        assert held >= min(100, 5 * (number + 1))
        assert held <= 110
    counts, images = windows.recent()
    assert counts[1] == images
    assert counts[0] == sum(range(60 - images // 5, 60))
    assert windows.state()["recent_counts"].shape == (11, 2)
    for number in range(20):  # each brings more than there is room for
        windows.add(np.array([number, 500]), 500, now=0.0)
    assert windows.recent()[1] == 500


def test_the_window_by_time_holds_a_day() -> None:
    windows = Windows(1, images=100)
    for hour in range(30):
        windows.add(np.array([hour]), 1, now=hour * HOUR)
        windows.add(np.array([0]), 1, now=hour * HOUR + 1800)
    assert windows.day() == (np.array([sum(range(6, 30))]), 48)
    windows.add(np.array([7]), 1, now=29 * HOUR)
    windows.add(np.array([0]), 0, now=1000 * HOUR)  # nothing came for weeks
    assert windows.day()[1] == 0
    windows.add(np.array([1]), 1, now=999 * HOUR)  # a clock that was set back
    assert windows.day()[1] == 1


def test_history_has_one_row_an_hour() -> None:
    history = History(2)
    assert history.since_first()[0] == []
    history.set(np.array([1.0, 0.1]), 10 * HOUR)
    history.set(np.array([2.0, 0.2]), 10.5 * HOUR)
    history.set(np.array([3.0, 0.3]), 12 * HOUR)
    hours, rows = history.since_first()
    assert hours == [10 * 3600, 11 * 3600, 12 * 3600]
    assert rows[0].tolist() == [2.0, 0.2]
    assert np.isnan(rows[1]).all()
    assert rows[2].tolist() == [3.0, 0.3]
    history.set(np.array([4.0, 0.4]), (12 + HISTORY_HOURS) * HOUR)
    assert history.since_first()[0] == [(12 + HISTORY_HOURS) * 3600]


def test_they_go_on_from_their_state() -> None:
    windows, history = Windows(1, images=10), History(1)
    for hour in range(5):
        windows.add(np.array([hour]), 3, now=hour * HOUR)
        history.set(np.array([float(hour)]), hour * HOUR)
    others = Windows(1, images=10), History(1)
    others[0].restore(windows.state())
    others[1].restore(history.state())
    for one in (windows, others[0]):
        one.add(np.array([9]), 3, now=5 * HOUR)
    assert others[0].day() == windows.day()
    assert others[0].recent() == windows.recent()
    assert others[1].since_first()[0] == history.since_first()[0]
