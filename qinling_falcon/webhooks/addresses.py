"""Which addresses callbacks may reach: public ones, and those of `CALLBACK_NETWORKS`.

Users choose the URLs of callbacks, but the service sends the requests from inside its own network. Without this check,
a user could reach what only that network reaches: databases, metadata services of clouds, the service's own Redis.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from qinling_falcon.settings import Network

# Not `is_global` of `ipaddress`: its answers differ between Python versions, and it calls some tunnels global.
_NOT_PUBLIC_V4 = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this host
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # shared by carriers (CGNAT)
        "127.0.0.0/8",  # loopback
        "169.254.0.0/16",  # link-local, with the metadata services of clouds
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # IETF protocols
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # relays of 6to4
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)
# All public unicast addresses. Outside of it are loopback, unique-local, link-local and multicast addresses, and those
# that embed an IPv4 address: mapped, compatible, translated (::ffff:0:0:0/96) and NAT64 (64:ff9b::/96, 64:ff9b:1::/48).
_PUBLIC_V6 = ipaddress.IPv6Network("2000::/3")
_NOT_PUBLIC_V6 = tuple(
    ipaddress.IPv6Network(network)
    for network in (
        "2001::/23",  # IETF protocols, with Teredo, which embeds IPv4 addresses
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4, which embeds IPv4 addresses
        "3fff::/20",  # documentation
    )
)


def may_reach(text: str, networks: Sequence[Network]) -> bool:
    """Whether callbacks may reach an address.

    Args:
        text: an IP address.
        networks: networks that they may reach although they are not public (`CALLBACK_NETWORKS`).
    """
    address = ipaddress.ip_address(text)
    if any(address in network for network in networks):
        return True
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_V4)
    # An address with a scope, such as fe80::1%eth0, belongs to one link.
    is_public = address in _PUBLIC_V6 and address.scope_id is None
    return is_public and not any(address in network for network in _NOT_PUBLIC_V6)
