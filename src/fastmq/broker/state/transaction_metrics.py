"""How many transactions of each topic are open, and the file `config/transactionMetrics`.

After RocketMQ's TransactionMetrics. A statistic, not more: what is open is in the half topic.
A crash loses the last changes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from fastmq.broker.state.saving import LaggingFile, Snapshot
from fastmq.errors import StoreError
from fastmq.protocol.bodies import DataVersion, dumps
from fastmq.store.tables import load_table, object_of

log = logging.getLogger("fastmq.broker.transaction")


class TransactionMetrics:
    """Counts by real topic. A file that cannot be read is noted in the log and counted as empty."""

    def __init__(self, path: str | None, wall_ms: Callable[[], int]) -> None:
        self._wall_ms = wall_ms
        self._counts: dict[str, tuple[int, int]] = {}  # topic -> count, wall time of the last change
        self.file = LaggingFile(path, self._freeze)
        self.data_version = DataVersion(counter=0, state_version=0, timestamp=wall_ms())
        try:
            load_table(path, self._take_body)
        except StoreError as error:
            log.warning("the counts of open transactions begin at 0: %s", error)

    def add(self, topic: str, change: int) -> None:
        """A transaction of the topic began (1) or ended (-1)."""
        now_ms = self._wall_ms()
        count, _ = self._counts.get(topic, (0, 0))
        self._counts[topic] = count + change, now_ms
        self.data_version = self.data_version.next_version(now_ms)
        self.file.changed()

    def count(self, topic: str) -> int:
        """Open transactions of a topic."""
        return self._counts.get(topic, (0, 0))[0]

    def counts(self) -> dict[str, int]:
        """Open transactions by topic; a copy."""
        return {topic: count for topic, (count, _) in self._counts.items()}

    def forget(self, topic: str) -> None:
        """The topic is deleted."""
        if self._counts.pop(topic, None) is not None:
            self.file.changed()

    def to_body(self) -> dict[str, Any]:
        """The content of the file (TransactionMetricsSerializeWrapper)."""
        counts = {topic: {"count": count, "timeStamp": time_ms} for topic, (count, time_ms) in self._counts.items()}
        return {"dataVersion": self.data_version, "transactionCount": counts}

    def _freeze(self) -> Snapshot:
        body = self.to_body()
        return lambda: dumps(body)

    def _take_body(self, content: dict[str, Any]) -> None:
        self.data_version = DataVersion.from_json(object_of(content, "dataVersion"))
        for topic, entry in object_of(content, "transactionCount").items():
            if isinstance(entry, dict) and type(entry.get("count")) is int:
                self._counts[topic] = entry["count"], int(entry.get("timeStamp") or 0)
