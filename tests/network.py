"""Addresses of this machine."""

from __future__ import annotations

import ipaddress
import socket

import psutil


def addresses() -> list[str]:
    """IPv4 addresses of this machine's interfaces, without loopback."""
    found = [
        one.address for of_card in psutil.net_if_addrs().values() for one in of_card if one.family == socket.AF_INET
    ]
    return [address for address in found if not ipaddress.ip_address(address).is_loopback]
