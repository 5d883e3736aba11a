"""Headers of sending: codes 10, 310, 320, 324, 325, 326, 370 and the send-back 36 (remoting 3.1, 3.5, 3.9.5)."""

from __future__ import annotations

from collections.abc import Mapping

from fastmq.protocol.fields import Header, Int32, header, wire


@header
class SendMessageRequest(Header):
    """SendMessageRequestHeader: codes 10 and 324 with these names; 310, 320, 325 with the letters of V2."""

    producer_group: str
    topic: str
    default_topic: str
    default_topic_queue_nums: Int32
    queue_id: Int32
    sys_flag: Int32
    born_timestamp: int
    flag: Int32
    properties: str | None = None
    reconsume_times: Int32 | None = None
    unit_mode: bool | None = None
    batch: bool | None = None
    max_reconsume_times: Int32 | None = None
    broker_name: str | None = wire("bname", default=None)

    @classmethod
    def from_v2(cls, ext: Mapping[str, str]) -> SendMessageRequest:
        """Read the single-letter form. RequestError(1) names the missing letter."""
        return SendMessageRequestV2.decode(ext).to_v1()

    def encode_v2(self) -> dict[str, str]:
        """The ext fields of the single-letter form."""
        return SendMessageRequestV2.from_v1(self).encode()


@header
class SendMessageRequestV2(Header):
    """SendMessageRequestHeaderV2: the same fields under single letters, which keeps the JSON header short."""

    a: str
    b: str
    c: str
    d: Int32
    e: Int32
    f: Int32
    g: int
    h: Int32
    i: str | None = None
    j: Int32 | None = None
    k: bool | None = None
    l: Int32 | None = None  # noqa: E741  (its name on the wire)
    m: bool | None = None
    n: str | None = None

    def to_v1(self) -> SendMessageRequest:
        """The same request under its long names."""
        return SendMessageRequest(
            self.a, self.b, self.c, self.d, self.e, self.f, self.g, self.h, self.i, self.j, self.k, self.m, self.l,
            self.n,
        )  # fmt: skip

    @classmethod
    def from_v1(cls, request: SendMessageRequest) -> SendMessageRequestV2:
        """The same request under its letters."""
        return cls(
            request.producer_group, request.topic, request.default_topic, request.default_topic_queue_nums,
            request.queue_id, request.sys_flag, request.born_timestamp, request.flag, request.properties,
            request.reconsume_times, request.unit_mode, request.max_reconsume_times, request.batch,
            request.broker_name,
        )  # fmt: skip


@header
class SendMessageResponse(Header):
    """SendMessageResponseHeader, with the two fields that every answer to a send carries."""

    msg_id: str
    queue_id: Int32
    queue_offset: int
    transaction_id: str | None = None
    batch_uniq_id: str | None = None
    recall_handle: str | None = None
    region: str | None = wire("MSG_REGION", default=None)
    trace_on: bool | None = wire("TRACE_ON", default=None)


@header
class ConsumerSendMsgBackRequest(Header):
    """ConsumerSendMsgBackRequestHeader (36). `offset` is a commit log offset."""

    group: str
    offset: int
    delay_level: Int32
    origin_msg_id: str | None = None
    origin_topic: str | None = None
    unit_mode: bool | None = None
    max_reconsume_times: Int32 | None = None
    broker_name: str | None = wire("bname", default=None)


@header
class ReplyMessageRequest(Header):
    """ReplyMessageRequestHeader (326), broker to the client that waits for the reply. Hosts are `ip:port`."""

    producer_group: str
    topic: str
    default_topic: str
    default_topic_queue_nums: Int32
    queue_id: Int32
    sys_flag: Int32
    born_timestamp: int
    flag: Int32
    born_host: str
    store_host: str
    store_timestamp: int
    properties: str | None = None
    reconsume_times: Int32 | None = None
    unit_mode: bool | None = None


@header
class RecallMessageRequest(Header):
    """RecallMessageRequestHeader (370)."""

    topic: str
    recall_handle: str
    producer_group: str | None = None
    broker_name: str | None = wire("bname", default=None)


@header
class RecallMessageResponse(Header):
    """RecallMessageResponseHeader, with the field that every answer to a send carries."""

    msg_id: str
    region: str | None = wire("MSG_REGION", default=None)
