"""A name server and broker in the loop of the test, which answers as the test says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.abc

from fastmq.protocol import message as m
from fastmq.protocol.bodies import BrokerData, ClusterInfo, MessageQueue, QueueData, TopicRouteData, dumps
from fastmq.protocol.bodies._read import read_object
from fastmq.protocol.codes import RequestCode, ResponseCode
from fastmq.protocol.command import Command, FrameSplitter, decode_frame, encode_frame

V4_9_7 = 407
V5_3_3 = 479

Answer = Callable[[Command], Command | None]
Scenario = Callable[[], Coroutine[Any, Any, None]]
Run = Callable[[Scenario], None]


async def until(condition: Callable[[], object]) -> None:
    """Wait for what a client, or a server here, does by itself and has no event for."""
    while not condition():  # noqa: ASYNC110
        await anyio.sleep(0.001)


class FakeCluster:
    """One broker `a` with two queues for each topic. `answers`: what it says to a code, nothing if that is None;
    others get code 3.
    """

    def __init__(self, answers: Mapping[int, Answer] | None = None, version: int = V5_3_3) -> None:
        self.version = version
        self.requests: list[Command] = []
        self.address = ""
        self.deaf: anyio.Event | None = None
        """Until when it reads nothing more of what comes."""
        self.waits: dict[int, Callable[[], Awaitable[object]]] = {}
        """What the answer to a code waits for; other requests are served meanwhile, as brokers do."""
        self.answers: dict[int, Answer] = {
            RequestCode.GET_ROUTEINFO_BY_TOPIC: self._route,
            RequestCode.GET_BROKER_CLUSTER_INFO: self._cluster,
            RequestCode.HEART_BEAT: lambda request: request.reply(),
            RequestCode.UNREGISTER_CLIENT: lambda request: request.reply(),
            RequestCode.SEND_MESSAGE_V2: self._sent,
            **(answers or {}),
        }

    def asked(self, code: int) -> list[Command]:
        """The requests of one kind."""
        return [one for one in self.requests if one.code == code]

    def _broker(self) -> BrokerData:
        return BrokerData(cluster="c", broker_name="a", broker_addrs={0: self.address})

    def _route(self, request: Command) -> Command:
        queues = (QueueData(broker_name="a", read_queue_nums=2, write_queue_nums=2, perm=6),)
        route = TopicRouteData(queue_datas=queues, broker_datas=(self._broker(),))
        return request.reply(body=route.encode(strict=True))

    def _cluster(self, request: Command) -> Command:
        info = ClusterInfo(broker_addr_table={"a": self._broker()}, cluster_addr_table={"c": ("a",)})
        return request.reply(body=info.encode(strict=True))

    @staticmethod
    def _sent(request: Command) -> Command:
        return request.reply(ext={"msgId": "0" * 32, "queueId": request.ext["e"], "queueOffset": "0"})

    async def _serve(self, stream: anyio.abc.SocketStream) -> None:
        splitter = FrameSplitter()
        async with stream, anyio.create_task_group() as tasks:
            try:
                while True:
                    data = await stream.receive()
                    if self.deaf is not None:
                        await self.deaf.wait()
                    for frame in splitter.feed(data):
                        request = decode_frame(frame)
                        self.requests.append(request)
                        answer = self.answers.get(request.code)
                        refusal = ResponseCode.REQUEST_CODE_NOT_SUPPORTED
                        reply = answer(request) if answer else request.reply(refusal, f"{request.code} is not known")
                        if reply is None:
                            continue
                        reply.version = self.version
                        if request.code in self.waits:
                            tasks.start_soon(self._answer_later, stream, request, reply)
                        elif not request.is_oneway:
                            await stream.send(encode_frame(reply))
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return
            finally:
                tasks.cancel_scope.cancel()

    async def _answer_later(self, stream: anyio.abc.SocketStream, request: Command, reply: Command) -> None:
        await self.waits[request.code]()
        await stream.send(encode_frame(reply))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[FakeCluster]:
        """It serves while the block runs."""
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        self.address = f"127.0.0.1:{port}"
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, self._serve)
            yield self
            tasks.cancel_scope.cancel()


class FakeGroup(FakeCluster):
    """A cluster whose topic `t` has messages for a group: `bodies` of each queue. A pull that finds none is held."""

    def __init__(self, bodies: Mapping[int, Sequence[str]]) -> None:
        super().__init__()
        self.bodies = bodies
        self.others: list[str] = []
        """Members beside the one that asks."""
        self.stored: dict[tuple[str, str], int] = {}
        self.locks: list[tuple[str, int]] = []
        """What happened to the locks of `t`: ("lock" or "unlock", queue)."""
        self.answers |= {
            RequestCode.GET_CONSUMER_LIST_BY_GROUP: self._members,
            RequestCode.QUERY_CONSUMER_OFFSET: self._offset,
            RequestCode.UPDATE_CONSUMER_OFFSET: self._store,
            RequestCode.PULL_MESSAGE: self._pull,
            RequestCode.LOCK_BATCH_MQ: self._lock,
            RequestCode.UNLOCK_BATCH_MQ: self._unlock,
            RequestCode.CONSUMER_SEND_MSG_BACK: lambda request: request.reply(),
        }

    def _members(self, request: Command) -> Command:
        heartbeat = read_object(self.asked(RequestCode.HEART_BEAT)[-1].body, "a heartbeat")
        return request.reply(body=dumps({"consumerIdList": [heartbeat["clientID"], *self.others]}))

    def _offset(self, request: Command) -> Command:
        return request.reply(ext={"offset": str(self.stored.get((request.ext["topic"], request.ext["queueId"]), 0))})

    def _store(self, request: Command) -> Command:
        self.stored[request.ext["topic"], request.ext["queueId"]] = int(request.ext["commitOffset"])
        return request.reply()

    def _pull(self, request: Command) -> Command | None:
        queue_id, offset = int(request.ext["queueId"]), int(request.ext["queueOffset"])
        left = self.bodies.get(queue_id, ())[offset:] if request.ext["topic"] == "t" else ()
        if not left:
            return None
        page = b"".join(
            m.encode_message(
                m.StoredMessage(
                    topic="t",
                    body=body.encode(),
                    queue_id=queue_id,
                    queue_offset=offset + at,
                    store_host=("1.2.3.4", 5),
                )
            )
            for at, body in enumerate(left)
        )
        after = str(offset + len(left))
        ext = {"nextBeginOffset": after, "minOffset": "0", "maxOffset": after, "suggestWhichBrokerId": "0"}
        return request.reply(ext=ext, body=page)

    def _named(self, request: Command) -> list[MessageQueue]:
        queues = [MessageQueue.from_json(one) for one in read_object(request.body, "a lock")["mqSet"]]
        what = "lock" if request.code == RequestCode.LOCK_BATCH_MQ else "unlock"
        self.locks += [(what, one.queue_id) for one in queues if one.topic == "t"]
        return queues

    def _lock(self, request: Command) -> Command:
        return request.reply(body=dumps({"lockOKMQSet": self._named(request)}))

    def _unlock(self, request: Command) -> Command:
        self._named(request)
        return request.reply()
