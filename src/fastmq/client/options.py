"""Settings that several kinds of consumers take by name."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from fastmq.client.rebalance import Strategy
from fastmq.client.session import SessionOptions
from fastmq.client.subscriptions import StartFrom
from fastmq.client.window import FlowLimits


class ConsumerOptions(SessionOptions, total=False):
    """What every consumer with rebalancing takes by name, beside SessionOptions. Times in seconds.

    `broadcasting`: every member gets every message, offsets are kept in a file under `offset_folder`. `start_from`
    (last, first) or `start_time`: where a group begins that has no offset. `strategy`: who takes which queues, the same
    for all members. `pull_batch`: messages a pull brings at most. `limits`: how much of a queue may be in memory.
    `suspend_seconds`: how long a broker holds a pull that finds nothing. `persist_seconds`: how often offsets are
    stored. `rebalance_seconds`: how often members are looked at, if nobody says that they changed.
    """

    broadcasting: bool
    start_from: StartFrom | str
    start_time: datetime | float | None
    strategy: Strategy
    pull_batch: int
    limits: FlowLimits
    suspend_seconds: float
    persist_seconds: float
    rebalance_seconds: float
    offset_folder: Path | str | None


class PushOptions(ConsumerOptions, total=False):
    """What PushConsumer takes by name, beside ConsumerOptions; it says what they do."""

    orderly: bool
    workers: int
    batch: int
    max_retries: int | None
    consume_seconds: float
    drain_seconds: float
    orderly_pause_seconds: float
    trace: bool | str
    telemetry: bool


class PopOptions(SessionOptions, total=False):
    """What PopConsumer takes by name, beside SessionOptions; it says what they do."""

    invisible_seconds: float
    orderly: bool
    start_from: StartFrom | str
