from __future__ import annotations

import hashlib
import hmac
from contextlib import suppress

import pytest

from serving.admission.api_keys import Keys
from serving.core.errors import Unauthenticated


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
