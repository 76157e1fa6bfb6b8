"""Whose address counts: that of who connects, or what a proxy that is trusted says of it.

`X-Forwarded-For` is a list to which each proxy adds, at its end, who connected to it. All before
what the trusted ones added was written by the client and may say anything, so the list is read from
its end, and the first address there that is no trusted proxy's is the client.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

FORWARDED_FOR = "x-forwarded-for"

Network = IPv4Network | IPv6Network
Networks = tuple[Network, ...]
_Address = IPv4Address | IPv6Address

# Of a header, from its end: no honest chain of proxies is longer.
_MAX_HOPS = 16
# An IPv6 address with its port takes 47 characters; there may be blanks around it.
_MAX_HOP_CHARACTERS = 64
# What stands in the log of a peer that has no address, such as a socket in the file system.
_MAX_PEER_CHARACTERS = 64


def parse_networks(text: str) -> Networks:
    """Addresses and networks, with commas between.

    Raises:
        ValueError: one of them is neither.
    """
    return tuple(_network(part.strip()) for part in text.split(",") if part.strip())


def _network(text: str) -> Network:
    try:
        return ip_network(text, strict=False)
    except ValueError:
        raise ValueError(
            f"'{text[:60]}' is neither an address (192.0.2.1) nor a network (192.0.2.0/24)"
        ) from None


class ClientAddress:
    """Finds the client of a request.

    Args:
        trusted: the proxies that are believed; none: nobody is.
    """

    def __init__(self, trusted: Networks = ()) -> None:
        self._trusted = trusted

    def of(self, peer: str, forwarded_for: Iterable[str]) -> str:
        """The client's address.

        Args:
            peer: address of who is connected.
            forwarded_for: the values of all X-Forwarded-For headers, in their order.
        """
        client = _parse(peer)
        if client is None:
            return peer[:_MAX_PEER_CHARACTERS]
        if not self._trusts(client):
            return str(client)
        for hop in _from_the_end(forwarded_for):
            address = _parse(hop)
            if address is None:  # written by nobody that is to be believed: who handed it on counts
                break
            client = address
            if not self._trusts(client):
                break
        return str(client)

    def _trusts(self, address: _Address) -> bool:
        return any(address in network for network in self._trusted)


def _from_the_end(headers: Iterable[str]) -> list[str]:
    """The last entries, the very last one first. The rest of a long header isn't even split."""
    hops: list[str] = []
    for header in reversed(list(headers)):
        tail = header[-_MAX_HOPS * _MAX_HOP_CHARACTERS :]
        hops += reversed(tail.rsplit(",", _MAX_HOPS)[-_MAX_HOPS:])
        if len(hops) >= _MAX_HOPS:
            break
    return hops[:_MAX_HOPS]


@lru_cache(maxsize=1024)  # taken apart once, not for each request of a connection
def _parse(text: str) -> _Address | None:
    """An address as proxies write it: with a port perhaps, in brackets, with the zone of a link.

    One of IPv4 that is written as IPv6's (::ffff:192.0.2.1) is that of IPv4.
    """
    text = text.strip()
    if len(text) > _MAX_HOP_CHARACTERS:
        return None
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
