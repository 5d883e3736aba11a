"""`fastmq bench compare`: the same load against two servers in turn, round by round, so that what changes on the
machine in the meantime hits both.
"""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fastmq.bench.report import Result

Run = Callable[[], Result]


@dataclass(frozen=True, slots=True)
class Compared:
    """One metric of both servers over all rounds."""

    a: Sequence[float]
    b: Sequence[float]

    @property
    def ratio(self) -> float:
        """Median of A divided by median of B."""
        return _divide(statistics.median(self.a), statistics.median(self.b))

    @property
    def spread(self) -> tuple[float, float]:
        """Smallest and largest ratio of the two runs of one round."""
        paired = [_divide(a, b) for a, b in zip(self.a, self.b, strict=True)]
        return min(paired), max(paired)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Rounds of one load against A and B."""

    names: tuple[str, str]
    rounds: Sequence[tuple[Result, Result]]

    @property
    def failed(self) -> bool:
        """Whether a run had failures; its figures are shown all the same, with them."""
        return any(result.failed for pair in self.rounds for result in pair)

    def metrics(self) -> Mapping[str, Compared]:
        """Every metric that all runs have."""
        runs = [(a.metrics(), b.metrics()) for a, b in self.rounds]
        shared = [name for name in runs[0][0] if all(name in a and name in b for a, b in runs)]
        return {name: Compared([a[name] for a, _ in runs], [b[name] for _, b in runs]) for name in shared}

    def to_text(self) -> str:
        """The table that people read: medians, their ratio, the pairs that lie furthest apart."""
        lines = [
            f"{len(self.rounds)} rounds of: {self.rounds[0][0].what}",
            f"  A = {self.names[0]}, B = {self.names[1]}",
        ]
        lines.append(f"  {'':18}{'median A':>14}{'median B':>14}{'A / B':>9}   pairs from .. to")
        for name, one in self.metrics().items():
            low, high = one.spread
            medians = f"{statistics.median(one.a):>14,.1f}{statistics.median(one.b):>14,.1f}"
            lines.append(f"  {name:18}{medians}{one.ratio:>9.2f}   {low:.2f} .. {high:.2f}")
        for number, pair in enumerate(self.rounds, 1):
            for letter, result in zip("AB", pair, strict=True):
                lines += [f"  FAILED: round {number}, {letter}: {failure}" for failure in result.failures]
        return "\n".join(lines)

    def to_json(self) -> str:
        """The same, with every round, as one JSON object."""
        metrics = {
            name: {
                "a": list(one.a), "b": list(one.b), "ratio_of_medians": one.ratio, "paired_ratios": list(one.spread),
            }
            for name, one in self.metrics().items()
        }  # fmt: skip
        rounds = [{"a": a.to_dict(), "b": b.to_dict()} for a, b in self.rounds]
        return json.dumps(
            {"a": self.names[0], "b": self.names[1], "failed": self.failed, "metrics": metrics, "rounds": rounds}
        )


def compare(
    names: tuple[str, str], runs: tuple[Run, Run], rounds: int, settle: Callable[[], None] = os.sync
) -> Comparison:
    """So many rounds of both. Who goes first changes each round; `settle` runs before each run, because the dirty pages
    that one leaves behind slow down the next.
    """
    pairs: list[tuple[Result, Result]] = []
    for number in range(rounds):
        found: dict[int, Result] = {}
        for which in (0, 1) if number % 2 == 0 else (1, 0):
            settle()
            found[which] = runs[which]()
        pairs.append((found[0], found[1]))
    return Comparison(names, pairs)


def _divide(a: float, b: float) -> float:
    return a / b if b else float("inf") if a else 1.0
