"""Figures of a run: rates, latency percentiles, errors by code."""

from __future__ import annotations

import json
from dataclasses import dataclass

PERCENTILES = (50.0, 90.0, 99.0, 99.9, 99.99)


class Histogram:
    """Latencies in ns as (lowest value, count) buckets, ascending."""

    def __init__(self, buckets: list[tuple[int, int]], max_ns: int) -> None:
        self.buckets = buckets
        self.max_ns = max_ns
        self.count = sum(count for _, count in buckets)

    def percentile_ns(self, percent: float) -> int:
        """The latency that so many percent of the requests did not exceed (to 1/64)."""
        wanted = self.count * percent / 100
        seen = 0
        for low, count in self.buckets:
            seen += count
            if seen >= wanted:
                return low
        return self.max_ns


@dataclass(frozen=True, slots=True)
class Result:
    """What one run measured. Only answers with code 0 count as done."""

    what: str
    elapsed_s: float
    sent: int
    codes: dict[int, int]
    connection_errors: int
    complete: bool
    latency: Histogram

    @property
    def done(self) -> int:
        return self.codes.get(0, 0)

    @property
    def failed(self) -> bool:
        """Whether anything but successes was seen."""
        return self.done != self.sent or self.connection_errors > 0 or not self.complete

    @property
    def rate(self) -> float:
        """Successful requests a second."""
        return self.done / self.elapsed_s if self.elapsed_s else 0.0

    def to_json(self) -> str:
        return json.dumps(
            {
                "what": self.what,
                "elapsed_s": round(self.elapsed_s, 3),
                "sent": self.sent,
                "done": self.done,
                "rate": round(self.rate, 1),
                "codes": {str(code): count for code, count in self.codes.items()},
                "connection_errors": self.connection_errors,
                "complete": self.complete,
                "latency_us": {
                    **{f"p{p:g}": round(self.latency.percentile_ns(p) / 1000, 1) for p in PERCENTILES},
                    "max": round(self.latency.max_ns / 1000, 1),
                },
            }
        )

    def to_text(self) -> str:
        lines = [
            self.what,
            f"  {self.rate:12,.0f} /s   {self.done:,} of {self.sent:,} in {self.elapsed_s:.2f} s",
            "  "
            + "  ".join(f"p{p:g} {self.latency.percentile_ns(p) / 1e6:.3f} ms" for p in PERCENTILES)
            + f"  max {self.latency.max_ns / 1e6:.3f} ms",
        ]
        lines += [f"  answered with code {code}: {count:,}" for code, count in self.codes.items() if code != 0]
        if self.connection_errors:
            lines.append(f"  connections lost: {self.connection_errors}")
        if not self.complete:
            lines.append("  some requests were never answered")
        return "\n".join(lines)
