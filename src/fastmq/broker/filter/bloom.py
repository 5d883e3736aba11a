"""The bloom filter of SQL92 consumers (BloomFilter): which bits of a message's bit map stand for which group.

When a message is stored, every registered filter of its topic is evaluated, and the bits of the groups that it matches
are set in a map beside its queue entry. A group that finds one of its bits unset need not look at the message itself.
The hash is RocketMQ's, so that maps in its files mean the same here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from fastmq.errors import UsageError

_MASK: Final = (1 << 64) - 1
_C1: Final = 0x87C37B91114253D5
_C2: Final = 0x4CF5AD432745937F


def murmur3_128(data: bytes) -> int:
    """The first 64 bits (of 128) of MurmurHash3 for x64 with seed 0."""
    h1 = h2 = 0
    whole = len(data) // 16 * 16
    for at in range(0, whole, 16):
        h1 ^= _mix1(int.from_bytes(data[at : at + 8], "little"))
        h1 = (((_rotated(h1, 27) + h2) & _MASK) * 5 + 0x52DCE729) & _MASK
        h2 ^= _mix2(int.from_bytes(data[at + 8 : at + 16], "little"))
        h2 = (((_rotated(h2, 31) + h1) & _MASK) * 5 + 0x38495AB5) & _MASK
    rest = data[whole:]
    h2 ^= _mix2(int.from_bytes(rest[8:], "little"))
    h1 ^= _mix1(int.from_bytes(rest[:8], "little"))
    h1 ^= len(data)
    h2 ^= len(data)
    h1 = (h1 + h2) & _MASK
    h2 = (h2 + h1) & _MASK
    return (_final(h1) + _final(h2)) & _MASK


def _rotated(value: int, bits: int) -> int:
    return ((value << bits) | (value >> (64 - bits))) & _MASK


def _mix1(block: int) -> int:
    return _rotated(block * _C1 & _MASK, 31) * _C2 & _MASK


def _mix2(block: int) -> int:
    return _rotated(block * _C2 & _MASK, 33) * _C1 & _MASK


def _final(value: int) -> int:
    value = (value ^ (value >> 33)) * 0xFF51AFD7ED558CCD & _MASK
    value = (value ^ (value >> 33)) * 0xC4CEB9FE1A85EC53 & _MASK
    return value ^ (value >> 33)


@dataclass(frozen=True, slots=True)
class BloomBits:
    """The bits of one group: messages stored after `since_ms` have all of them set in maps of `bit_count` bits."""

    bit_count: int
    positions: tuple[int, ...]
    since_ms: int


class BloomFilter:
    """Bits for texts. `error_percent`: how often a message may pass for nothing; `expected`: groups a topic."""

    def __init__(self, error_percent: int, expected: int) -> None:
        if not 1 <= error_percent < 100:
            raise UsageError(f"maxErrorRateOfBloomFilter={error_percent}: not from 1 to 99 percent")
        if expected < 1:
            raise UsageError(f"expectConsumerNumUseFilter={expected}: not positive")
        rate = error_percent / 100
        self.hashes = math.ceil(math.log(rate) / math.log(0.5))
        needed = math.ceil(expected * (math.log(1 / rate) / math.log(2)) * (math.log(math.e) / math.log(2)))
        self.bit_count = 8 * math.ceil(needed / 8)

    def positions(self, text: str) -> tuple[int, ...]:
        """The bits of a text."""
        hashed = murmur3_128(text.encode())
        low, high = _signed(hashed), _signed(hashed >> 32)
        found = []
        for number in range(1, self.hashes + 1):
            combined = _signed(low + number * high)
            found.append((~combined if combined < 0 else combined) % self.bit_count)
        return tuple(found)

    def bit_map(self, positions: list[tuple[int, ...]]) -> bytes:
        """A map in which the bits of several texts are set."""
        bits = bytearray(self.bit_count // 8)
        for group in positions:
            for position in group:
                bits[position // 8] |= 1 << position % 8
        return bytes(bits)

    def holds(self, bits: bytes, positions: tuple[int, ...]) -> bool:
        """Whether all bits of a text are set."""
        return all(bits[position // 8] >> position % 8 & 1 for position in positions)


def _signed(value: int) -> int:
    """The low 32 bits as Java's int."""
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >> 31 else value
