"""OpenTelemetry: the context of a send travels in the properties and comes out around the listener."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

import fastmq
from fastmq.client.messages import Message, ReceivedMessage
from fastmq.errors import UsageError
from fastmq.protocol import message as m
from fastmq.protocol.codes import RequestCode
from unit.client_rig import FakeCluster

trace = pytest.importorskip("opentelemetry.trace")

from fastmq.client.otel import Telemetry  # noqa: E402  (needs the package)


class Span(trace.NonRecordingSpan):  # type: ignore[misc]
    def __init__(self, number: int, name: str, options: dict[str, Any]) -> None:
        super().__init__(trace.SpanContext(0xABC, number, False, trace.TraceFlags(1)))
        self.name = name
        self.options = options
        self.ended = False
        self.status: Any = None
        self.attributes = dict(options.get("attributes", {}))

    def set_attribute(self, key: str, value: Any) -> None:
        self.attributes[key] = value

    def set_status(self, status: Any, description: str | None = None) -> None:
        self.status = status

    def end(self, end_time: int | None = None) -> None:
        self.ended = True


class Tracer:
    def __init__(self) -> None:
        self.spans: list[Span] = []

    def start_span(self, name: str, **options: Any) -> Span:
        self.spans.append(Span(len(self.spans) + 1, name, options))
        return self.spans[-1]


@pytest.fixture
def telemetry() -> Telemetry:
    made = Telemetry("g")
    made._tracer = Tracer()
    return made


def received(properties: dict[str, str]) -> ReceivedMessage:
    return ReceivedMessage.from_stored(m.StoredMessage(topic="t", properties=m.encode_properties(properties)), "b")


def test_a_listener_continues_the_trace_of_the_sender(telemetry: Telemetry) -> None:
    properties: dict[str, str] = {"p": "v"}
    span = telemetry.sending(Message("t", b"x", tag="a", keys="k"), "ID", properties)
    assert span.name == "send t"
    assert span.options["kind"] is trace.SpanKind.PRODUCER
    assert span.attributes["messaging.message.id"] == "ID"
    assert properties["traceparent"].split("-")[1:3] == [f"{0xABC:032x}", f"{1:016x}"]
    telemetry.sent(span, None, ValueError("no"))
    assert span.ended
    assert span.status.status_code is trace.StatusCode.ERROR
    with telemetry.processing([received(properties)]) as inner:
        assert trace.get_current_span() is inner
        parent = trace.get_current_span(inner.options["context"]).get_span_context()
        assert (parent.trace_id, parent.span_id) == (0xABC, 1)
        assert not inner.ended
    assert inner.ended
    assert inner.options["kind"] is trace.SpanKind.CONSUMER
    assert trace.get_current_span() is not inner


def test_several_messages_are_linked(telemetry: Telemetry) -> None:
    batch: list[ReceivedMessage] = [received({})]
    for _ in range(2):
        properties: dict[str, str] = {}
        telemetry.sending(Message("t", b"x"), "ID", properties)
        batch.append(received(properties))
    with telemetry.processing(batch) as span:
        assert [link.context.span_id for link in span.options["links"]] == [1, 2]
        assert span.attributes["messaging.batch.message_count"] == 3
        telemetry.failed(span, ValueError("no"))
    assert span.status.status_code is trace.StatusCode.ERROR


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_every_send_ends_its_span(backend: str) -> None:
    tracer = Tracer()

    async def scenario() -> None:
        async with FakeCluster().running() as cluster, fastmq.Producer(cluster.address, telemetry=True) as producer:
            assert producer._telemetry is not None
            producer._telemetry._tracer = tracer
            message = Message("t", "x")
            await producer.send(message)
            await (await producer.send_async(message))
            await producer.send_oneway(message)
            await producer.send_half(message)
            with pytest.raises(UsageError):
                await producer.send(Message("t", "x", properties={"a": 1}))  # type: ignore[dict-item]
            with pytest.raises(fastmq.RequestReplyTimeout):
                await producer.request(message, timeout=1)
            cluster.answers.pop(RequestCode.SEND_MESSAGE_V2)
            with pytest.raises(fastmq.NotSupported):
                await producer.send(message)
            with pytest.raises(fastmq.NotSupported):
                await (await producer.send_async(message))

    anyio.run(scenario, backend=backend)
    assert len(tracer.spans) == 7
    assert all(span.ended for span in tracer.spans)
    assert [span.status is None for span in tracer.spans] == [True] * 5 + [False] * 2
