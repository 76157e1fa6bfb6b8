from __future__ import annotations

import pytest

from serving.admission.rate_limit import RateLimit
from serving.core.errors import RateLimited


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class TestRateLimit:
    def used(self, limit: RateLimit, client: str, requests: int) -> int:
        """How many of the requests are let through."""
        passed = 0
        for _ in range(requests):
            try:
                limit.check(client)
            except RateLimited:
                continue
            passed += 1
        return passed

    def test_a_burst_and_then_the_rate(self) -> None:
        clock = Clock()
        limit = RateLimit(2, burst=5, clock=clock)
        assert self.used(limit, "a", 10) == 5
        clock.now += 1
        assert self.used(limit, "a", 10) == 2
        clock.now += 1000
        assert self.used(limit, "a", 10) == 5

    def test_clients_do_not_share(self) -> None:
        limit = RateLimit(1, burst=1, clock=Clock())
        assert [self.used(limit, client, 3) for client in "abc"] == [1, 1, 1]

    def test_when_to_come_back(self) -> None:
        limit = RateLimit(0.5, burst=1, clock=Clock())
        limit.check("a")
        with pytest.raises(RateLimited) as caught:
            limit.check("a")
        assert caught.value.retry_after_s == pytest.approx(2)

    def test_zero_is_no_limit(self) -> None:
        assert self.used(RateLimit(0, burst=1), "a", 1000) == 1000

    def test_no_more_clients_are_remembered_than_fit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("serving.admission.rate_limit._MAX_CLIENTS", 3)
        limit = RateLimit(1, burst=1, clock=Clock())
        for client in "abcde":
            limit.check(client)
        assert list(limit._buckets) == ["c", "d", "e"]
