"""What consumers are told of messages in light queues (LMQ).

A record says where it lies in the queue of its own topic, and a light queue holds records of many such queues. Clients
take what a record says for its place in the queue they read: they order by it and commit it. So a light queue's
records are sent with queue 0 and their offset there. RocketMQ sends them as they are: a push consumer then commits
offsets of other queues and skips messages after its next start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fastmq.protocol import names

if TYPE_CHECKING:
    from fastmq._store import ReadResult, Store

QUEUE_ID: Final = slice(12, 16)
QUEUE_OFFSET: Final = slice(20, 28)
LOG_OFFSET: Final = slice(28, 36)


def read_records(store: Store, topic: str, queue_id: int, begin: int, result: ReadResult) -> bytes:
    """The records that a read of a queue from `begin` on has found, one after another; places as the queue has them."""
    body = store.read_messages(result.messages)
    if not body or not names.is_light_queue(topic):
        return body
    entries = store.queue_entries(topic, queue_id, begin, result.next_offset - begin)
    place = {log_offset: begin + number for number, (log_offset, _, _) in enumerate(entries)}
    records = bytearray(body)
    at = 0
    while at < len(records):
        size = int.from_bytes(records[at : at + 4])
        record = memoryview(records)[at : at + size]
        offset = place.get(int.from_bytes(record[LOG_OFFSET]))
        if offset is not None:
            record[QUEUE_ID] = queue_id.to_bytes(4)
            record[QUEUE_OFFSET] = offset.to_bytes(8)
        at += size
    return bytes(records)
