"""Texts that settings are made of: addresses, delay levels, hours, ports. Pure; UsageError says which and why."""

from __future__ import annotations

import re

from fastmq.errors import UsageError

_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.%\w]+\]|[^\s:;\[\]/]+):(\d{1,5})")
_DELAY_LEVEL = re.compile(r"(\d+)([smhd])")
_DELAY_UNIT_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def parse_addresses(name: str, text: str) -> tuple[tuple[str, int], ...]:
    """`host:port;host:port` as pairs; an IPv6 host stands in brackets. Raises UsageError naming the property."""
    addresses = []
    for piece in filter(None, (piece.strip() for piece in text.split(";"))):
        match = _ADDRESS.fullmatch(piece)
        if match is None or not 1 <= int(match[2]) <= 65_535:
            raise UsageError(f"{name}: {piece!r} is not host:port")
        addresses.append((match[1].strip("[]"), int(match[2])))
    return tuple(addresses)


def parse_delay_levels(text: str) -> tuple[int, ...]:
    """`1s 5s 1m` as milliseconds. Raises UsageError."""
    levels = []
    for piece in text.split():
        match = _DELAY_LEVEL.fullmatch(piece)
        if match is None:
            raise UsageError(f"messageDelayLevel: {piece!r} is not a number followed by s, m, h or d")
        levels.append(int(match[1]) * _DELAY_UNIT_MS[match[2]])
    if not levels:
        raise UsageError("messageDelayLevel must name at least one delay")
    return tuple(levels)


def check_delete_when(text: str) -> None:
    """Raise UsageError unless `text` is hours of the day with `;` between them."""
    for piece in text.split(";"):
        if piece.strip() and not (piece.strip().isdecimal() and int(piece) <= 23):
            raise UsageError(f"deleteWhen={text}: {piece.strip()!r} is not an hour from 00 to 23")


def check_ports(**ports: int) -> None:
    """Raise UsageError if two listeners would share a port or one comes out too high. 0 and less: no fixed port."""
    used: dict[int, str] = {}
    for name, port in ports.items():
        if port > 65_535:
            raise UsageError(f"{name} comes out as {port}: ports end at 65535")
        if port > 0 and port in used:
            raise UsageError(f"{used[port]} and {name} are both {port}")
        used[port] = name
