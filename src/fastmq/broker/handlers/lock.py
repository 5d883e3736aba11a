"""Queue locks of orderly consumers: LOCK_BATCH_MQ (41) and UNLOCK_BATCH_MQ (42)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastmq.net.server import Reply
from fastmq.protocol.bodies import LockBatchBody, LockBatchResponseBody, MessageQueue, dumps
from fastmq.protocol.codes import RequestCode

if TYPE_CHECKING:
    from fastmq.broker.app import Broker
    from fastmq.broker.dispatch import Handler
    from fastmq.net.server import Peer
    from fastmq.protocol.command import Command


def lock_batch(broker: Broker, peer: Peer, request: Command) -> Reply:
    """LOCK_BATCH_MQ: answers with the queues that the client holds now, exactly as it wrote them; always code 0.

    The group need not exist. Nobody holds what is asked for without a group or a client id. `onlyThisBroker` needs no
    look: with one replica lockInStrictMode asks this broker alone, too.
    """
    body = LockBatchBody.from_json(request.body)
    held: list[MessageQueue] = []
    if body.consumer_group and body.client_id:
        held = broker.locks.try_lock_batch(body.consumer_group, body.client_id, body.mq_set, broker.clock.monotonic())
    return Reply(body=dumps(LockBatchResponseBody(tuple(held))))


def unlock_batch(broker: Broker, peer: Peer, request: Command) -> Reply:
    """UNLOCK_BATCH_MQ: gives up the client's own locks."""
    body = LockBatchBody.from_json(request.body)
    broker.locks.unlock_batch(body.consumer_group, body.client_id, body.mq_set)
    return Reply()


HANDLERS: dict[int, Handler] = {
    RequestCode.LOCK_BATCH_MQ: lock_batch,
    RequestCode.UNLOCK_BATCH_MQ: unlock_batch,
}
