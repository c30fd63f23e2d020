"""Which network addresses a URL from outside may lead to.

The standard library's ``is_global`` alone is not enough: it calls NAT64, 6to4, multicast and one
cloud's metadata address global. So an address passes only if it is global, not multicast, not in
the list below, and so is every IPv4 address hidden inside it.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

_DENIED_V4 = tuple(
    ip_network(block)
    for block in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT; one cloud's metadata service is in it
        "127.0.0.0/8",
        "168.63.129.16/32",  # a cloud's host agent, on a public address
        "169.254.0.0/16",  # link local; metadata services
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)
_DENIED_V6 = tuple(
    ip_network(block)
    for block in (
        "64:ff9b:1::/48",  # NAT64 of a local network: where the IPv4 part is, only that network knows
        "100::/64",
        "2001::/23",  # protocol assignments, Teredo among them
        "2001:db8::/32",
        "2002::/16",  # 6to4: retired, and a way to write any IPv4 address
        "3fff::/20",
        "5f00::/16",
        "fc00::/7",
        "fe80::/10",
        "fec0::/10",
        "ff00::/8",
    )
)
_UNICAST_V6 = ip_network("2000::/3")
_NAT64 = ip_network("64:ff9b::/96")
_ISATAP_MARKS = (0x00005EFE, 0x02005EFE)


def is_public(address: str) -> bool:
    """Whether this numeric address is public.

    Anything but a plain numeric address (a name, a zone suffix) is not public.
    """
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, IPv4Address):
        return _is_public_v4(parsed)
    return _is_public_v6(parsed)


def _is_public_v4(address: IPv4Address) -> bool:
    if not address.is_global or address.is_multicast:
        return False
    return not any(address in block for block in _DENIED_V4)


def _is_public_v6(address: IPv6Address) -> bool:
    if address.scope_id is not None:
        return False
    hidden = _embedded_v4(address)
    if hidden is not None:
        return _is_public_v4(hidden)
    if address not in _UNICAST_V6 or not address.is_global or address.is_multicast:
        return False
    if any(address in block for block in _DENIED_V6):
        return False
    return (int(address) >> 32) & 0xFFFFFFFF not in _ISATAP_MARKS


def _embedded_v4(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that a mapped or NAT64 address really reaches."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return None
