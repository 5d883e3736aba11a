"""Telling the members of a consumer group that it changed: NOTIFY_CONSUMER_IDS_CHANGED (40).

After RocketMQ's DefaultConsumerIdsChangeListener. Clients share out a group's queues when they are told, else at their
next rebalance (20 s). With realTimeNotifyConsumerChange=false the groups that change are only noted; every 15 s each is
told once, however often it changed. `pending` is all that is kept; there is nothing on disk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from fastmq.protocol.codes import RequestCode
from fastmq.protocol.command import ONEWAY_FLAG, Command

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fastmq.broker.app import Broker
    from fastmq.broker.state.sessions import ClientChannel

BATCH_INTERVAL_S: Final = 15.0


class Notices:
    """Who is told that a group changed, and when."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.pending: dict[str, None] = {}  # groups in the order they changed

    def group_changed(self, group: str, channels: Iterable[ClientChannel]) -> None:
        """Tell these members now, or note the group for the next round."""
        if self._broker.config.real_time_notify_consumer_change:
            self._tell(group, channels)
        else:
            self.pending[group] = None

    def tell_pending(self) -> None:
        """A round: those who are members now are told."""
        groups, self.pending = self.pending, {}
        for group in groups:
            info = self._broker.sessions.consumer_group(group)
            if info is not None:
                self._tell(group, list(info.channels.values()))

    async def run(self) -> None:
        """A round every 15 s, until cancelled."""
        while True:
            await trio.sleep(BATCH_INTERVAL_S)
            self.tell_pending()

    def _wanted(self, group: str) -> bool:
        """Not to broadcasting groups, whose members have all queues anyway, and not if broker or group forbid it."""
        broker = self._broker
        if not broker.config.notify_consumer_ids_changed_enable:
            return False
        config = broker.groups.get(group)
        if config is not None and not config.notify_consumer_ids_changed_enable:
            return False
        info = broker.sessions.consumer_group(group)
        return info is None or not info.is_broadcasting

    def _tell(self, group: str, channels: Iterable[ClientChannel]) -> None:
        if not self._wanted(group):
            return
        broker = self._broker
        for channel in channels:
            peer = broker.peer_of(channel)
            if peer is not None:
                peer.send(
                    Command(
                        RequestCode.NOTIFY_CONSUMER_IDS_CHANGED,
                        opaque=broker.next_opaque(),
                        flag=ONEWAY_FLAG,
                        ext={"consumerGroup": group},
                    )
                )
