"""A name server and broker in the loop of the test, which answers as the test says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import anyio
import anyio.abc

from fastmq.protocol.bodies import BrokerData, ClusterInfo, QueueData, TopicRouteData
from fastmq.protocol.codes import RequestCode, ResponseCode
from fastmq.protocol.command import Command, FrameSplitter, decode_frame, encode_frame

V4_9_7 = 407
V5_3_3 = 479

Answer = Callable[[Command], Command | None]


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
        async with stream:
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
                        if not request.is_oneway:
                            await stream.send(encode_frame(reply))
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return

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
