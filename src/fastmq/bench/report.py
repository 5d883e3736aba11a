"""Figures of a run: rates, latency percentiles, errors by code."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastmq.bench.target import code_name
from fastmq.errors import FastmqError
from fastmq.protocol.command import decode_frame

PERCENTILES = (50.0, 90.0, 99.0, 99.9, 99.99)
TICK_S = 0.1

Codes = Mapping[int, tuple[int, bytes]]  # code -> how many, header of the first


class Histogram:
    """Latencies in ns as (smallest, largest, count) buckets, ascending, and the largest that was seen."""

    def __init__(self, buckets: Sequence[tuple[int, int, int]], max_ns: int) -> None:
        self.buckets = buckets
        self.max_ns = max_ns
        self.count = sum(count for _, _, count in buckets)

    def percentile_ns(self, percent: float) -> int:
        """The latency that so many percent did not exceed: the upper end of its bucket, 1/64 too much at most."""
        wanted = self.count * percent / 100
        seen = 0
        for _, high, count in self.buckets:
            seen += count
            if seen >= wanted:
                return min(high, self.max_ns)
        return self.max_ns

    def to_dict(self) -> dict[str, float]:
        """Percentiles and maximum in microseconds."""
        named = {f"p{p:g}": round(self.percentile_ns(p) / 1000, 1) for p in PERCENTILES}
        return {"count": self.count, **named, "max": round(self.max_ns / 1000, 1)}

    def to_text(self) -> str:
        """The percentiles in a line, in milliseconds."""
        named = [f"p{p:g} {_duration(self.percentile_ns(p))}" for p in PERCENTILES]
        return "  ".join([*named, f"max {_duration(self.max_ns)}"])


@dataclass(frozen=True, slots=True)
class Result:
    """What one run measured. Only sends answered with code 0 count as done."""

    what: str
    elapsed_s: float
    sent: int = 0  # messages
    done: int = 0
    received: int = 0
    received_bytes: int = 0
    send_codes: Codes = field(default_factory=dict)
    pull_codes: Codes = field(default_factory=dict)
    latency: Mapping[str, Histogram] = field(default_factory=dict)
    acknowledged: Sequence[int] = ()  # messages in every 100 ms
    delivered: Sequence[int] = ()
    failures: Sequence[str] = ()  # sentences; none if everything was served
    counts: Mapping[str, int] = field(default_factory=dict)  # of all kinds of failure
    notes: Sequence[str] = ()

    @property
    def failed(self) -> bool:
        """Whether anything but successes was seen."""
        return bool(self.failures)

    @property
    def rates(self) -> dict[str, float]:
        """Messages a second that were sent with success, and that were read."""
        found = {}
        if self.sent:
            found["sent"] = self.done / self.elapsed_s if self.elapsed_s else 0.0
        if self.received or self.pull_codes:
            found["read"] = self.received / self.elapsed_s if self.elapsed_s else 0.0
        return found

    def metrics(self) -> dict[str, float]:
        """What two servers are compared by: messages a second, latencies in µs."""
        found = {f"{name} msg/s": rate for name, rate in self.rates.items()}
        for name, histogram in self.latency.items():
            if name != "lateness" and histogram.count:
                found |= {f"{name} p{p:g} us": histogram.percentile_ns(p) / 1000 for p in (50.0, 99.0, 99.9)}
        return found

    def to_dict(self) -> dict[str, Any]:
        """Everything that was measured, as JSON has it."""
        return {
            "what": self.what,
            "elapsed_s": round(self.elapsed_s, 4),
            "sent": self.sent,
            "done": self.done,
            "received": self.received,
            "received_bytes": self.received_bytes,
            "rates": {name: round(rate, 1) for name, rate in self.rates.items()},
            "send_codes": {str(code): count for code, (count, _) in self.send_codes.items()},
            "pull_codes": {str(code): count for code, (count, _) in self.pull_codes.items()},
            "latency_us": {name: h.to_dict() for name, h in self.latency.items() if h.count},
            "acknowledged_per_100ms": list(self.acknowledged),
            "delivered_per_100ms": list(self.delivered),
            "failed": self.failed,
            "failures": list(self.failures),
            "failure_counts": {name: count for name, count in self.counts.items() if count},
            "notes": list(self.notes),
        }

    def to_json(self) -> str:
        """One JSON object on one line."""
        return json.dumps(self.to_dict())

    def to_text(self) -> str:
        """The report for people; failures stand in it whenever there are any."""
        lines = [self.what]
        if self.sent:
            rate = self.rates["sent"]
            lines.append(f"  {'sent':9}{rate:>13,.0f} msg/s   {self.done:,} of {self.sent:,} in {self.elapsed_s:.2f} s")
        if "read" in self.rates:
            megabytes = self.received_bytes / 1e6
            per_second = megabytes / self.elapsed_s if self.elapsed_s else 0.0
            lines.append(
                f"  {'read':9}{self.rates['read']:>13,.0f} msg/s   {self.received:,} messages, {per_second:,.0f} MB/s"
            )
        for name, histogram in self.latency.items():
            if histogram.count:
                lines.append(f"  {name:9}{histogram.to_text()}")
        lines += [f"  note: {note}" for note in self.notes]
        lines += [f"  FAILED: {failure}" for failure in self.failures]
        return "\n".join(lines)


def describe_codes(what: str, codes: Codes, good: Sequence[int]) -> list[str]:
    """A sentence for every code that is none of the good ones: how many answers, and the remark of the first."""
    lines = []
    for code, (count, header) in sorted(codes.items()):
        if code not in good:
            remark = _remark(header)
            lines.append(f"{count:,} {what} answered with code {code_name(code)}" + (f": {remark}" if remark else ""))
    return lines


def _remark(header: bytes) -> str:
    if not header:
        return ""
    size = len(header)
    try:
        remark = decode_frame((4 + size).to_bytes(4, "big") + size.to_bytes(4, "big") + header).remark
    except FastmqError:
        return ""
    return (remark or "").split("\n")[0][:200]


def _duration(ns: int) -> str:
    return f"{ns / 1e6:.3f} ms" if ns < 10**9 else f"{ns / 1e9:.3f} s"
