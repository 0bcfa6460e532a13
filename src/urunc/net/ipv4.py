# SPDX-License-Identifier: Apache-2.0
"""IPv4 arithmetic on text; `ipaddress` costs 8 ms to import and every create would pay it."""

from __future__ import annotations


def number(address: str) -> int:
    """A dotted address as a number."""
    value = 0
    for part in address.split("."):
        value = value << 8 | int(part)
    return value


def dotted(value: int) -> str:
    """A number as a dotted address."""
    return ".".join(str(value >> shift & 0xFF) for shift in (24, 16, 8, 0))


def mask(prefix: int) -> int:
    """A prefix length as a mask."""
    return (1 << 32) - (1 << (32 - prefix))


def dotted_mask(prefix: int) -> str:
    """A prefix length as a dotted mask."""
    return dotted(mask(prefix))


def contains(address: str, prefix: int, other: str) -> bool:
    """Whether `other` is in the subnet of `address`/`prefix`."""
    return (number(address) ^ number(other)) >> (32 - prefix) == 0
