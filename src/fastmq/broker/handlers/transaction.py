"""The end of transactions: END_TRANSACTION (37), and RESUME_CHECK_HALF_MESSAGE (323) for operators.

After RocketMQ's EndTransactionProcessor. How transactions work is in `delivery/transaction*.py` and docs/delivery.md.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from fastmq import _store as st
from fastmq.broker.delivery.transaction import HALF_TOPIC, HalfMessage
from fastmq.broker.handlers.send import store_failure
from fastmq.errors import RequestError, UsageError
from fastmq.net.server import Reply
from fastmq.protocol.codes import RequestCode, ResponseCode
from fastmq.protocol.headers import EndTransactionRequest, ResumeCheckHalfMessageRequest
from fastmq.protocol.headers.transaction import TRANSACTION_COMMIT, TRANSACTION_ROLLBACK
from fastmq.protocol.message import parse_message_id

if TYPE_CHECKING:
    from fastmq.broker.app import Broker
    from fastmq.broker.dispatch import Handler
    from fastmq.net.server import Peer
    from fastmq.protocol.command import Command

log = logging.getLogger("fastmq.broker.transaction")

NOT_FOUND = "Find prepared transaction message failed"


def end_transaction(broker: Broker, peer: Peer, request: Command) -> Reply | None:
    """END_TRANSACTION (37). Neither commit nor rollback (the producer does not know yet): nothing, and no answer."""
    header = EndTransactionRequest.decode(request.ext)
    if header.commit_or_rollback not in (TRANSACTION_COMMIT, TRANSACTION_ROLLBACK):
        log.debug("%s does not know about %s yet: %s", peer.address, header.msg_id, request.remark)
        return None
    half = _find(broker, header)
    transactions = broker.transactions
    if transactions.is_decided(half):
        log.info("%s decides about %s, which is decided already", peer.address, header.msg_id)
        return Reply()
    if header.commit_or_rollback == TRANSACTION_ROLLBACK:
        transactions.roll_back(half)
        return Reply()
    try:
        status = transactions.commit(half)
    except UsageError as error:
        raise RequestError(ResponseCode.SYSTEM_ERROR, f"the message cannot be committed: {error}") from error
    if status != st.ST_OK:
        broker.stats.on_put_failed()
        return Reply(*store_failure(broker.config, status))
    return Reply()


def _find(broker: Broker, header: EndTransactionRequest) -> HalfMessage:
    """The half message a decision is about. RequestError if it is another one, or the decision comes too late."""
    half = broker.transactions.find(header.commit_log_offset)
    if half is None:
        raise RequestError(ResponseCode.SYSTEM_ERROR, NOT_FOUND)
    if not header.from_transaction_check and half.is_too_late(
        broker.clock.wall_ms(), broker.config.transaction_time_out
    ):
        raise RequestError(
            ResponseCode.ILLEGAL_OPERATION,
            "the time before the first check is over, the broker asks about the transaction",
        )
    if half.producer_group != header.producer_group:
        raise RequestError(ResponseCode.SYSTEM_ERROR, "The producer group wrong")
    if half.message.queue_offset != header.tran_state_table_offset:
        raise RequestError(ResponseCode.SYSTEM_ERROR, "The transaction state table offset wrong")
    if half.message.log_offset != header.commit_log_offset:
        raise RequestError(ResponseCode.SYSTEM_ERROR, "The commit log offset wrong")
    return half


def resume_check_half_message(broker: Broker, peer: Peer, request: Command) -> Reply:
    """RESUME_CHECK_HALF_MESSAGE (323): begin to ask about a transaction anew, above all one that was given up."""
    header = ResumeCheckHalfMessageRequest.decode(request.ext)
    text = header.msg_id or ""
    try:
        _, _, log_offset = parse_message_id(text)
    except ValueError as error:
        raise RequestError(ResponseCode.SYSTEM_ERROR, f"{text[:64]!r} is no message id of a broker") from error
    half = broker.transactions.find(log_offset, given_up=True)
    if half is None:
        raise RequestError(ResponseCode.SYSTEM_ERROR, f"there is no half message at the log offset {log_offset}")
    if half.message.topic == HALF_TOPIC and broker.transactions.is_decided(half):
        raise RequestError(ResponseCode.SYSTEM_ERROR, "the transaction is decided already")
    if not broker.transactions.resume(half):
        raise RequestError(ResponseCode.SYSTEM_ERROR, "Put message back to RMQ_SYS_TRANS_HALF_TOPIC failed.")
    log.info("%s lets the checks of %s begin anew", peer.address, text)
    return Reply()


HANDLERS: dict[int, Handler] = {
    RequestCode.END_TRANSACTION: end_transaction,
    RequestCode.RESUME_CHECK_HALF_MESSAGE: resume_check_half_message,
}
