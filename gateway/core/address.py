"""Network addresses as units that attempts are counted by."""

import ipaddress
from typing import Final

IPV6_SITE_BITS: Final = 64


def site_of(address: str) -> str:
    """The unit that failures are counted by: an IPv4 address, or an IPv6 /64."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, IPV6_SITE_BITS), strict=False))
    return address
