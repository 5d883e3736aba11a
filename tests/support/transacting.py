"""A producer of transactions over a plain connection: half messages, decisions, and what the broker asks."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

from fastmq.protocol.codes import RequestCode
from fastmq.protocol.message import decode_message, decode_messages, parse_message_id
from support.remoting import Answer, Connection, call

UNKNOWN, COMMIT, ROLLBACK = 0, 8, 12
HALF_TOPIC, OWN_GROUP = "RMQ_SYS_TRANS_HALF_TOPIC", "CID_RMQ_SYS_TRANS"


@dataclass(frozen=True)
class Half:
    """A message in a transaction as its producer knows it from sending it, or from being asked."""

    body: bytes
    key: str
    queue_offset: int
    log_offset: int
    asked: bool = False


class Refused(AssertionError):
    """The broker did not take a half message."""


class TransactionProducer:
    """One connected member of a producer group. OSError when the broker is gone."""

    def __init__(self, port: int, group: str, client_id: str) -> None:
        self.group = group
        self.connection = Connection(port, seconds=60)
        heartbeat = {"clientID": client_id, "producerDataSet": [{"groupName": group}], "consumerDataSet": []}
        answer = self.connection.call(RequestCode.HEART_BEAT, {}, json.dumps(heartbeat).encode())
        assert answer.code == 0, answer.remark

    def begin(self, topic: str, queue_id: int, key: str, body: bytes, properties: str = "") -> Half:
        """Send a half message. Refused if the broker does not take it."""
        text = f"UNIQ_KEY\x01{key}\x02PGROUP\x01{self.group}\x02TRAN_MSG\x01true\x02WAIT\x01true\x02{properties}"
        ext = {
            "a": self.group, "b": topic, "c": "TBW102", "d": 4, "e": queue_id, "f": 4,
            "g": time.time_ns() // 1_000_000, "h": 0, "i": text, "j": 0, "k": False, "m": False,
        }  # fmt: skip
        answer = self.connection.call(RequestCode.SEND_MESSAGE_V2, ext, body)
        if answer.code != 0:
            raise Refused(f"{answer.code} {answer.remark}")
        return Half(body, key, int(answer.ext["queueOffset"]), parse_message_id(answer.ext["msgId"])[2])

    def end(self, half: Half, decision: int) -> Answer:
        """Commit or roll back."""
        ext = {
            "producerGroup": self.group, "tranStateTableOffset": half.queue_offset, "commitLogOffset": half.log_offset,
            "commitOrRollback": decision, "fromTransactionCheck": half.asked, "msgId": half.key,
            "transactionId": half.key,
        }  # fmt: skip
        return self.connection.call(RequestCode.END_TRANSACTION, ext)

    def checks(self, seconds: float = 0.0) -> list[Half]:
        """What the broker has asked about since the last time, waiting so long for a first one."""
        found = []
        for request in self.connection.take_requests(seconds):
            if request.code == RequestCode.CHECK_TRANSACTION_STATE:
                ext, body = request.ext, decode_message(request.body)[0].body
                offsets = int(ext["tranStateTableOffset"]), int(ext["commitLogOffset"])
                found.append(Half(body, ext["msgId"], *offsets, asked=True))
        return found

    def close(self) -> None:
        self.connection.close()


def everything(port: int, topic: str, queues: int) -> list[bytes]:
    """The bodies that lie in a topic."""
    found: list[bytes] = []
    for queue_id in range(queues):
        offset = 0
        while True:
            ext: dict[str, Any] = {
                "consumerGroup": "judge", "topic": topic, "queueId": queue_id, "queueOffset": offset, "maxMsgNums": 32,
                "sysFlag": 4, "commitOffset": 0, "suspendTimeoutMillis": 0, "subscription": "*", "subVersion": 0,
                "expressionType": "TAG",
            }  # fmt: skip
            answer = call(port, RequestCode.PULL_MESSAGE, ext)
            if answer.code == 19:
                break
            assert answer.code == 0, (answer.code, answer.remark)
            found += [message.body for message in decode_messages(answer.body)]
            offset = int(answer.ext["nextBeginOffset"])
    return found


def open_transactions(port: int) -> int:
    """How many records of the half topic the broker is not done with, as far as its stored offsets say."""
    where = {"topic": HALF_TOPIC, "queueId": 0}
    done = call(port, RequestCode.QUERY_CONSUMER_OFFSET, {**where, "consumerGroup": OWN_GROUP})
    end = call(port, RequestCode.GET_MAX_OFFSET, where)
    assert done.code == end.code == 0, (done.remark, end.remark)
    return int(end.ext["offset"]) - int(done.ext["offset"])
