"""Settings that several kinds of consumers take by name."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from fastmq.client.rebalance import Strategy
from fastmq.client.session import SessionOptions
from fastmq.client.subscriptions import StartFrom
from fastmq.client.window import FlowLimits


class ConsumerOptions(SessionOptions, total=False):
    """What every consumer with rebalancing takes; see QueueConsumer."""

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
