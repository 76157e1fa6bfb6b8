from __future__ import annotations

import hashlib
import hmac
from contextlib import suppress

import pytest

from serving.access import Keys, RateLimit
from serving.core.errors import RateLimited, Unauthenticated


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def test_without_keys_everybody_may_ask_and_nobody_administer() -> None:
    keys = Keys()
    assert keys.check(None) == keys.check("Bearer x") == ""
    assert not keys.has_admin
    for value in (None, "Bearer ", "Bearer x"):
        with pytest.raises(Unauthenticated):
            keys.check_admin(value)


def test_the_admin_key_is_an_api_key_and_not_the_other_way_round() -> None:
    keys = Keys([digest("user").upper()], digest("admin"))
    assert keys.check("Bearer user") == digest("user")
    assert keys.check("bearer  admin ") == digest("admin")
    keys.check_admin("Bearer admin")
    with pytest.raises(Unauthenticated):
        keys.check_admin("Bearer user")


def test_every_key_is_compared_whole_whatever_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the time tells neither how much of a key is right nor which one it is."""
    compared: list[tuple[str, str]] = []
    original = hmac.compare_digest

    def spy(known: str, sent: str) -> bool:
        compared.append((known, sent))
        return original(known, sent)

    monkeypatch.setattr(hmac, "compare_digest", spy)
    known = [digest("first"), digest("second"), digest("admin")]
    keys = Keys(known[:2], known[2])
    for sent in ("first", "second", "admin", "firs", "nobody", "", digest("first")):
        compared.clear()
        with suppress(Unauthenticated):
            keys.check(f"Bearer {sent}")
        assert compared == [(one, digest(sent)) for one in known]  # digests: of equal length


def test_a_digest_in_place_of_its_key_opens_nothing() -> None:
    with pytest.raises(Unauthenticated):
        Keys([digest("user")], digest("admin")).check(f"Bearer {digest('user')}")


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
        monkeypatch.setattr("serving.access._MAX_CLIENTS", 3)
        limit = RateLimit(1, burst=1, clock=Clock())
        for client in "abcde":
            limit.check(client)
        assert list(limit._buckets) == ["c", "d", "e"]
