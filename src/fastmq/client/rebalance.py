"""Which member of a group takes which queues: RocketMQ's strategies. All members must come to the same answer.

A strategy gets the group, the own client id, all queues and all client ids, both sorted, and gives the own queues.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final

from fastmq.protocol.bodies.config import MessageQueue

Strategy = Callable[[str, str, Sequence[MessageQueue], Sequence[str]], list[MessageQueue]]

VIRTUAL_NODES: Final = 10


def averagely(group: str, client_id: str, queues: Sequence[MessageQueue], clients: Sequence[str]) -> list[MessageQueue]:
    """Neighbouring queues, as many for each as for the others (AVG, the default)."""
    if client_id not in clients:
        return []
    index = clients.index(client_id)
    mod = len(queues) % len(clients)
    if len(queues) <= len(clients):
        size = 1
    else:
        size = len(queues) // len(clients) + (index < mod)
    start = index * size if mod > 0 and index < mod else index * size + mod
    return list(queues[start : start + max(0, min(size, len(queues) - start))])


def averagely_by_circle(
    group: str, client_id: str, queues: Sequence[MessageQueue], clients: Sequence[str]
) -> list[MessageQueue]:
    """One queue after the other is dealt out (AVG_BY_CIRCLE)."""
    if client_id not in clients:
        return []
    return list(queues[clients.index(client_id) :: len(clients)])


def consistent_hash(virtual_nodes: int = VIRTUAL_NODES) -> Strategy:
    """Few queues change hands when a member comes or goes (CONSISTENT_HASH)."""

    def allocate(
        group: str, client_id: str, queues: Sequence[MessageQueue], clients: Sequence[str]
    ) -> list[MessageQueue]:
        if client_id not in clients:
            return []
        ring = sorted({_md5(f"{one}-{index}"): one for one in clients for index in range(virtual_nodes)}.items())
        points = [point for point, _ in ring]

        def owner(queue: MessageQueue) -> str:
            text = f"MessageQueue [topic={queue.topic}, brokerName={queue.broker_name}, queueId={queue.queue_id}]"
            return ring[bisect.bisect_left(points, _md5(text)) % len(ring)][1]

        return [queue for queue in queues if owner(queue) == client_id]

    return allocate


def _md5(text: str) -> int:
    return int.from_bytes(hashlib.md5(text.encode(), usedforsecurity=False).digest()[:4])


def by_config(queues: Iterable[MessageQueue]) -> Strategy:
    """Always these queues, whoever else is there (CONFIG)."""
    fixed = list(queues)

    def allocate(
        group: str, client_id: str, queues: Sequence[MessageQueue], clients: Sequence[str]
    ) -> list[MessageQueue]:
        return [queue for queue in fixed if queue in queues]

    return allocate


def by_machine_room(rooms: Collection[str]) -> Strategy:
    """Only brokers of some rooms, whose names are `room@broker` (MACHINE_ROOM)."""

    def allocate(
        group: str, client_id: str, queues: Sequence[MessageQueue], clients: Sequence[str]
    ) -> list[MessageQueue]:
        if client_id not in clients:
            return []
        index = clients.index(client_id)
        near = [
            queue for queue in queues if queue.broker_name.count("@") == 1 and queue.broker_name.split("@")[0] in rooms
        ]
        size, rest = divmod(len(near), len(clients))
        mine = near[size * index : size * (index + 1)]
        if rest > index:
            mine.append(near[index + size * len(clients)])
        return mine

    return allocate


def near_machine_room(
    inner: Strategy, room_of_broker: Callable[[str], str], room_of_client: Callable[[str], str]
) -> Strategy:
    """Queues stay within their room; those of rooms without a client are shared by all (MACHINE_ROOM_NEARBY)."""

    def allocate(
        group: str, client_id: str, queues: Sequence[MessageQueue], clients: Sequence[str]
    ) -> list[MessageQueue]:
        if client_id not in clients:
            return []
        rooms: dict[str, list[MessageQueue]] = {}
        for queue in queues:
            rooms.setdefault(room_of_broker(queue.broker_name), []).append(queue)
        members: dict[str, list[str]] = {}
        for client in clients:
            members.setdefault(room_of_client(client), []).append(client)
        own = room_of_client(client_id)
        mine = inner(group, client_id, rooms.pop(own), members[own]) if own in rooms else []
        for room in sorted(rooms):
            if room not in members:
                mine += inner(group, client_id, rooms[room], clients)
        return mine

    return allocate
