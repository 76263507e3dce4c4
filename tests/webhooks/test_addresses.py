"""Callbacks reach public addresses only, unless a setting allows more."""

from __future__ import annotations

import pytest

from qinling_falcon.settings_environment import read_settings
from qinling_falcon.webhooks.addresses import may_reach

NOT_PUBLIC = {
    "this host": ["0.0.0.0", "0.1.2.3"],
    "private": ["10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.255", "192.168.0.1", "192.168.255.255"],
    "loopback": ["127.0.0.1", "127.255.255.254", "::1"],
    "link-local": ["169.254.169.254", "169.254.0.1", "fe80::1", "fe80::1%eth0", "febf::1"],
    "carrier": ["100.64.0.1", "100.127.255.255"],
    "unique-local": ["fc00::1", "fd00:ec2::254", "fdff::1"],
    "site-local": ["fec0::1"],
    "multicast": ["224.0.0.1", "239.255.255.255", "ff02::1", "ff0e::1"],
    "reserved": ["240.0.0.1", "255.255.255.255", "192.0.0.8", "198.18.0.1", "198.19.255.255", "192.88.99.1"],
    "documentation": ["192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1", "3fff::1", "3fff:fff::1"],
    "unspecified": ["::"],
    "mapped": ["::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:8.8.8.8"],
    "compatible": ["::127.0.0.1", "::8.8.8.8"],
    "translated": ["::ffff:0:127.0.0.1"],
    "6to4": ["2002:7f00:1::", "2002:a00:1::1", "2002:808:808::1"],
    "nat64": ["64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::a00:1"],
    "teredo": ["2001::1", "2001:0:7f00:1::"],
    "protocols": ["2001:2::1", "2001:10::1", "2001:20::1", "2001:1ff::1"],
    "discard": ["100::1"],
    "segment routing": ["5f00::1"],
    "unassigned": ["4000::1", "1fff::1"],
}
PUBLIC = [
    "8.8.8.8", "1.1.1.1", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.1",
    "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0", "192.167.255.255", "192.169.0.0",
    "198.17.255.255", "198.20.0.0", "223.255.255.255", "2606:4700::1111", "2001:4860:4860::8888", "2001:200::1",
    "2a00:1450::1", "2003::1",
]  # fmt: skip


@pytest.mark.parametrize(("kind", "address"), [(kind, one) for kind, some in NOT_PUBLIC.items() for one in some])
def test_an_address_that_is_not_public_is_refused(kind: str, address: str) -> None:
    assert not may_reach(address, ())


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_allowed(address: str) -> None:
    assert may_reach(address, ())


@pytest.mark.parametrize(
    ("networks", "allowed", "refused"),
    [
        ("10.1.0.0/16", ["10.1.2.3", "8.8.8.8"], ["10.2.0.1", "127.0.0.1", "::ffff:10.1.2.3"]),
        ("127.0.0.1,fd00::/8", ["127.0.0.1", "fd12::1"], ["127.0.0.2", "fc00::1", "::1"]),
        ("0.0.0.0/0", ["169.254.169.254"], ["::1", "fe80::1"]),
        ("::ffff:0:0/96", ["::ffff:10.0.0.1"], ["10.0.0.1"]),
    ],
)
def test_a_setting_allows_networks(networks: str, allowed: list[str], refused: list[str]) -> None:
    settings = read_settings({"CALLBACK_NETWORKS": networks})
    assert all(may_reach(address, settings.allowed_callback_networks) for address in allowed)
    assert not any(may_reach(address, settings.allowed_callback_networks) for address in refused)
