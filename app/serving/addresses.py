"""What a connection is counted against: its address, or the network an IPv6 host may choose its address from."""

from __future__ import annotations

import ipaddress

IPV6_PREFIX = 64


def block_of(address: str) -> str:
    """The IPv4 address itself, the /64 of an IPv6 address; text that is neither comes back unchanged.

    One host owns a whole /64, so counting its single addresses would bound nothing.
    """
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found, IPV6_PREFIX), strict=False))
