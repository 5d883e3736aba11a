"""Traces that are on their way when a client is closed."""

from __future__ import annotations

import anyio
import pytest

import fastmq
from fastmq.client.messages import Message
from fastmq.client.trace import FLUSH_COUNT, Tracer, TraceRecord
from fastmq.protocol.codes import RequestCode
from fastmq.protocol.command import Command
from unit.client_rig import FakeCluster


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_flush_waits_for_what_is_being_sent(backend: str) -> None:
    async def scenario() -> None:
        gate = anyio.Event()
        sent: list[str] = []

        async def send(message: Message) -> None:
            await gate.wait()
            sent.append(str(message.body))

        tracer = Tracer("traces", send)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(tracer.run)
            for number in range(FLUSH_COUNT):
                tracer.add(TraceRecord(f"{number} ", ()))
            await anyio.wait_all_tasks_blocked()

            async def close() -> None:
                await tracer.flush()
                tasks.cancel_scope.cancel()

            tasks.start_soon(close)
            await anyio.wait_all_tasks_blocked()
            gate.set()
        assert sent == ["0 1 2 3 4 5 6 7 8 9 "]

    anyio.run(scenario, backend=backend)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_no_record_is_lost_when_a_producer_is_closed(backend: str) -> None:
    cluster = FakeCluster()

    def traces() -> list[Command]:
        sends = cluster.asked(RequestCode.SEND_MESSAGE_V2)
        return [one for one in sends if one.ext["b"] == "RMQ_SYS_TRACE_TOPIC"]

    async def scenario() -> None:
        with anyio.fail_after(60):
            async with cluster.running(), fastmq.Producer(cluster.address, trace=True) as producer:
                for _ in range(2 * FLUSH_COUNT):
                    await producer.send("t", "x", timeout=60)

    anyio.run(scenario, backend=backend)
    records = b"".join(one.body for one in traces()).count(b"\x02")
    assert records == 2 * FLUSH_COUNT
