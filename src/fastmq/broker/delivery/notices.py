"""Telling the members of a consumer group that it changed: NOTIFY_CONSUMER_IDS_CHANGED (40).

After RocketMQ's DefaultConsumerIdsChangeListener. Clients share out a group's queues when they are told, else at their
next rebalance (20 s). With realTimeNotifyConsumerChange=false the groups that change are only noted; every 15 s each is
told once, however often it changed. There is nothing on disk.

Groups of many members are told at most twice a second: when thousands of clients come back after a restart, telling all
of each one would be millions of frames. (RocketMQ breaks off telling a group when it changes again.)
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
CROWD: Final = 32  # members of a group that is told at once whatever happens
CROWD_INTERVAL_S: Final = 0.5


class Notices:
    """Who is told that a group changed, and when."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.pending: dict[str, None] = {}  # groups for the next round, in the order they changed
        self.crowded: dict[str, None] = {}  # large groups that were told a moment ago and changed again
        self._told: dict[str, float] = {}  # when large groups were told, in monotonic seconds
        self._wake = trio.Event()

    def group_changed(self, group: str, channels: Iterable[ClientChannel]) -> None:
        """Tell these members now, or note the group for later."""
        members = list(channels)
        if not self._broker.config.real_time_notify_consumer_change:
            self.pending[group] = None
        elif len(members) <= CROWD or self._is_quiet(group):
            self._tell(group, members)
        else:
            self.crowded[group] = None
            self._wake.set()

    def tell_pending(self) -> None:
        """A round of realTimeNotifyConsumerChange=false: those who are members now are told."""
        groups, self.pending = self.pending, {}
        self._tell_members(groups)

    def tell_crowded(self) -> None:
        """The same for large groups that changed since they were told last."""
        now = self._broker.clock.monotonic()
        groups, self.crowded = self.crowded, {}
        self._told = {group: at for group, at in self._told.items() if now - at < CROWD_INTERVAL_S}
        self._told |= dict.fromkeys(groups, now)
        self._tell_members(groups)

    async def run(self) -> None:
        """Tell whoever is not told at once, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run_rounds)
            while True:
                await self._wake.wait()
                self._wake = trio.Event()
                await trio.sleep(CROWD_INTERVAL_S)
                self.tell_crowded()

    async def _run_rounds(self) -> None:
        while True:
            await trio.sleep(BATCH_INTERVAL_S)
            self.tell_pending()

    def _is_quiet(self, group: str) -> bool:
        """Whether a large group was not told in the last half second; it is told now then."""
        now = self._broker.clock.monotonic()
        if group in self.crowded or now - self._told.get(group, -CROWD_INTERVAL_S) < CROWD_INTERVAL_S:
            return False
        self._told[group] = now
        return True

    def _tell_members(self, groups: Iterable[str]) -> None:
        for group in groups:
            info = self._broker.sessions.consumer_group(group)
            if info is not None:
                self._tell(group, list(info.channels.values()))

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
