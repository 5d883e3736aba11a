"""How far each member of a broadcasting group has come, for members that come through a proxy now and then.

After RocketMQ's BroadcastOffsetManager. A member that talks to the broker itself keeps its offsets in a file of its
own; a proxy keeps none. So the broker notes the offset that each pull of a member asks for, and when a member comes the
other way than before, its next pull of each queue is sent to where it was:

    pull                            through a proxy before      directly before         not seen before
    through a proxy, no offset      where it was                where it was            where the group was, or the end
    through a proxy, with offset    goes on                     where it was            goes on
    directly                        where it was                goes on                 goes on

All of it is in memory; the least offset of all members is committed under `<group>@broadcast` from time to time, which
is where a member begins that nobody has seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

MEMBERS_MAX: Final = 65_536
"""Members whose offsets are kept; further ones are not noted."""

BROADCAST_SUFFIX: Final = "@broadcast"


def broadcast_group(group: str) -> str:
    """The name under which the least offset of a broadcasting group is committed."""
    return group + BROADCAST_SUFFIX


@dataclass(slots=True)
class _Queue:
    offset: int
    from_proxy: bool


@dataclass(slots=True)
class _Member:
    seen: float
    queues: dict[int, _Queue] = field(default_factory=dict)


class BroadcastOffsets:
    """Offsets by topic, group, member and queue. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, str], dict[str, _Member]] = {}
        self._members = 0

    def __len__(self) -> int:
        return self._members

    def begin_at(
        self,
        topic: str,
        group: str,
        client_id: str,
        queue_id: int,
        *,
        asked: int,
        from_proxy: bool,
        otherwise: Callable[[], int],
    ) -> int | None:
        """Where a pull is to be sent instead of to the offset it asks for; None if that one is right.

        `otherwise` says where a member begins that has no offset anywhere.
        """
        member = self._groups.get((topic, group), {}).get(client_id)
        queue = None if member is None else member.queues.get(queue_id)
        if queue is None:
            return otherwise() if from_proxy and asked < 0 else None
        if queue.from_proxy != from_proxy or (from_proxy and asked < 0):
            return queue.offset
        return None

    def note(
        self, topic: str, group: str, client_id: str, queue_id: int, offset: int, *, from_proxy: bool, now: float
    ) -> None:
        """A pull of a member was answered that asked for this offset, or was sent there. Offsets only grow."""
        if offset < 0:
            return
        members = self._groups.get((topic, group), {})
        member = members.get(client_id)
        if member is None:
            if self._members >= MEMBERS_MAX:
                return
            member = members[client_id] = _Member(now)
            self._groups[topic, group] = members
            self._members += 1
        member.seen = now
        queue = member.queues.setdefault(queue_id, _Queue(offset, from_proxy))
        queue.offset = max(queue.offset, offset)
        queue.from_proxy = from_proxy

    def scan(
        self, now: float, *, online: Callable[[str, str], bool], expire_s: float, expire_online_s: float
    ) -> list[tuple[str, str, int, int]]:
        """Forget members that fell silent; (topic, group, queue id, least offset of those that count).

        `online` says whether a member of a group is connected: those are kept longer.
        """
        least: dict[tuple[str, str, int], int] = {}
        for (topic, group), members in list(self._groups.items()):
            for client_id, member in list(members.items()):
                silent_s, is_online = now - member.seen, online(group, client_id)
                if is_online or silent_s < expire_s:
                    for queue_id, queue in member.queues.items():
                        key = topic, group, queue_id
                        least[key] = min(least.get(key, queue.offset), queue.offset)
                if silent_s >= (expire_online_s if is_online else expire_s):
                    del members[client_id]
                    self._members -= 1
            if not members:
                del self._groups[topic, group]
        return [(*key, offset) for key, offset in least.items()]

    def delete(self, *, topic: str | None = None, group: str | None = None) -> None:
        """Forget a deleted topic or group."""
        for key in [key for key in self._groups if topic == key[0] or group == key[1]]:
            self._members -= len(self._groups.pop(key))
