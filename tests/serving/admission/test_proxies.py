from __future__ import annotations

import random
from typing import Any

import pytest

from serving.admission.proxies import ClientAddress, parse_networks

PROXIES = parse_networks("10.0.0.0/8, 192.0.2.7 ,2001:db8::/32")
TRUSTING = ClientAddress(PROXIES)
STRANGER = "203.0.113.9"
LIES = (
    "127.0.0.1",
    "10.0.0.1",
    "198.51.100.4",
    "198.51.100.4, 10.1.1.1",
    "unknown",
    "_hidden",
    "",
    ",,,",
    "::1",
    "for=198.51.100.4",
    "'; drop table--",
    "1.2.3.4\r\nX: y",
    "x" * 100_000,
    "1.2.3.4," * 100_000,
    "ü漢",
)


@pytest.mark.parametrize("lie", LIES, ids=range(len(LIES)))
def test_nobody_is_believed_by_default(lie: str) -> None:
    for peer in (STRANGER, "127.0.0.1", "10.0.0.1", "2001:db8::1"):
        assert ClientAddress().of(peer, [lie]) == peer


@pytest.mark.parametrize("lie", LIES, ids=range(len(LIES)))
def test_what_a_client_writes_changes_nothing(lie: str) -> None:
    """It comes before what the proxies add, in the same header or in one of its own."""
    assert TRUSTING.of(STRANGER, [lie]) == STRANGER  # past the proxies
    for chain in ([f"{lie}, {STRANGER}"], [lie, STRANGER], [f"{lie},{STRANGER}", "192.0.2.7"]):
        assert TRUSTING.of("10.0.0.1", chain) == STRANGER


@pytest.mark.parametrize(
    ("peer", "headers", "client"),
    [
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", [STRANGER], STRANGER),
        ("10.0.0.1", ["2001:db8::5, 10.2.2.2"], "2001:db8::5"),  # all trusted: the first
        ("10.0.0.1", [f"  {STRANGER}  "], STRANGER),
        ("10.0.0.1", [f"{STRANGER}:50123"], STRANGER),
        ("10.0.0.1", ["[2001:db9::1]:443"], "2001:db9::1"),
        ("10.0.0.1", ["[2001:db9::1]"], "2001:db9::1"),
        ("10.0.0.1", ["2001:DB9:0:0::1"], "2001:db9::1"),
        ("10.0.0.1", ["fe80::1%eth0"], "fe80::1"),
        ("::ffff:10.0.0.1", [f"::ffff:{STRANGER}"], STRANGER),  # a socket for both families
        ("2001:db8::1", [STRANGER], STRANGER),
        ("10.0.0.1", [f"{STRANGER}, unknown, 10.3.3.3"], "10.3.3.3"),  # who handed on the unknown
        ("10.0.0.1", ["unknown"], "10.0.0.1"),
        ("", [STRANGER], ""),
        ("a/socket" * 100, [STRANGER], "a/socket" * 8),
    ],
)
def test_chains(peer: str, headers: list[str], client: str) -> None:
    assert TRUSTING.of(peer, headers) == client


def test_whatever_is_sent_the_answer_is_an_address_and_short() -> None:
    """10,000 headers of random pieces."""
    draw = random.Random(0)
    pieces = [*LIES[:12], STRANGER, "10.0.0.1", "[", "]", "%", ":", ",", ", ", "999.1.1.1", "\0"]
    for _ in range(10_000):
        headers = [
            "".join(draw.choices(pieces, k=draw.randrange(6))) for _ in range(draw.randrange(4))
        ]
        client = TRUSTING.of("10.0.0.1", headers)
        assert str(parse_networks(client)[0].network_address) == client


def test_of_a_long_chain_only_the_end_counts() -> None:
    class Header(str):
        """Tells how much of it was taken."""

        taken = 0

        def __getitem__(self, part: Any) -> str:
            piece = str(self)[part]
            Header.taken += len(piece)
            return piece

    header = Header(", ".join([STRANGER, *["10.0.0.1"] * 100_000]))
    assert TRUSTING.of("10.0.0.1", [header]) == "10.0.0.1"
    assert 0 < Header.taken < 2000
