"""How many messages wait for their time, per real topic: `config/timermetrics` (RocketMQ's TimerMetrics)."""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Any

from fastmq.errors import ProtocolError
from fastmq.protocol import names
from fastmq.protocol.bodies import DataVersion, dumps
from fastmq.store.tables import load_table, object_of


class TimerMetrics:
    """The counts. Raises StoreError if the file (and its backup) cannot be read."""

    def __init__(self, path: str | None, wall_ms: Callable[[], int]) -> None:
        self._wall_ms = wall_ms
        self._counts: dict[str, list[int]] = {}  # topic: [count, time of the last change]
        self.data_version = DataVersion(timestamp=wall_ms())
        load_table(path, self._take_body)

    def add(self, topic: str, change: int) -> None:
        """So many more (or fewer) messages of a topic wait."""
        entry = self._counts.setdefault(topic, [0, 0])
        entry[0] += change
        entry[1] = self._wall_ms()
        self.data_version = self.data_version.next_version(entry[1])

    def count(self, topic: str) -> int:
        """How many messages of a topic wait."""
        entry = self._counts.get(topic)
        return 0 if entry is None else entry[0]

    @property
    def total(self) -> int:
        """How many messages wait."""
        return sum(entry[0] for entry in self._counts.values())

    def keep(self, topics: Container[str]) -> None:
        """Forget the topics that are gone (not those of the system), if nothing of theirs waits."""
        for topic in [topic for topic, entry in self._counts.items() if topic not in topics and entry[0] <= 0]:
            if not topic.startswith(names.SYSTEM_TOPIC_PREFIX):
                del self._counts[topic]

    def to_body(self) -> dict[str, Any]:
        """The counts as TimerMetricsSerializeWrapper has them: the content of the file and the body of code 61."""
        counts = {topic: {"count": count, "timeStamp": at} for topic, (count, at) in self._counts.items()}
        return {"dataVersion": self.data_version, "timingCount": counts}

    def encode(self) -> bytes:
        """The file."""
        return dumps(self.to_body())

    def _take_body(self, content: dict[str, Any]) -> None:
        self.data_version = DataVersion.from_json(object_of(content, "dataVersion"))
        for topic, entry in object_of(content, "timingCount").items():
            count, at = (entry.get("count"), entry.get("timeStamp")) if isinstance(entry, dict) else (None, None)
            if type(count) is not int or type(at) is not int:
                raise ProtocolError(f"{topic!r} has {entry!r}")
            self._counts[topic] = [count, at]
