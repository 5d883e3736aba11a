"""Headers of transactions: codes 37, 39, 323 (remoting 3.6)."""

from __future__ import annotations

from typing import Final

from fastmq.protocol.fields import Header, Int32, header, wire

TRANSACTION_COMMIT: Final = 8
TRANSACTION_ROLLBACK: Final = 12
TRANSACTION_UNKNOWN: Final = 0


@header
class EndTransactionRequest(Header):
    """EndTransactionRequestHeader (37). `commit_or_rollback` is one of TRANSACTION_…"""

    producer_group: str
    tran_state_table_offset: int
    commit_log_offset: int
    commit_or_rollback: Int32
    msg_id: str
    topic: str | None = None
    from_transaction_check: bool | None = None
    transaction_id: str | None = None
    broker_name: str | None = wire("bname", default=None)


@header
class CheckTransactionStateRequest(Header):
    """CheckTransactionStateRequestHeader (39), broker to producer."""

    tran_state_table_offset: int
    commit_log_offset: int
    topic: str | None = None
    msg_id: str | None = None
    transaction_id: str | None = None
    offset_msg_id: str | None = None
    broker_name: str | None = wire("bname", default=None)


@header
class ResumeCheckHalfMessageRequest(Header):
    """ResumeCheckHalfMessageRequestHeader (323). `msg_id` is an offset id."""

    topic: str | None = None
    msg_id: str | None = None
