"""OpenTelemetry spans for sending and consuming, joined by the context that travels in a message's properties.

Only the API package is needed (extra `opentelemetry`); what becomes of the spans is decided by the SDK of the program.
Names and attributes follow OpenTelemetry's conventions for messaging.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Sequence
from typing import Any, Final

from fastmq.client.errors import MissingExtra
from fastmq.client.messages import Message, ReceivedMessage, SendResult

SCOPE: Final = "fastmq"
FIELDS: Final = ("traceparent", "tracestate", "baggage")


class Telemetry:
    """Makes spans. Raises MissingExtra without the API package."""

    def __init__(self, group: str) -> None:
        try:
            self._trace: Any = importlib.import_module("opentelemetry.trace")
            self._propagate: Any = importlib.import_module("opentelemetry.propagate")
        except ImportError:
            raise MissingExtra("opentelemetry-api", "opentelemetry") from None
        self._tracer = self._trace.get_tracer(SCOPE)
        self._group = group

    def _attributes(self, operation: str, topic: str) -> dict[str, Any]:
        return {
            "messaging.system": "rocketmq",
            "messaging.operation.name": operation,
            "messaging.destination.name": topic,
            "messaging.rocketmq.client_group": self._group,
        }

    def sending(self, message: Message, message_id: str, properties: dict[str, str], count: int = 1) -> Any:
        """A span for a send; its context is added to the properties. `sent` ends it."""
        attributes = self._attributes("send", message.topic)
        attributes["messaging.message.id"] = message_id
        if message.tag:
            attributes["messaging.rocketmq.message.tag"] = message.tag
        if message.keys:
            keys = [message.keys] if isinstance(message.keys, str) else list(message.keys)
            attributes["messaging.rocketmq.message.keys"] = keys
        if count > 1:
            attributes["messaging.batch.message_count"] = count
        span = self._tracer.start_span(
            f"send {message.topic}", kind=self._trace.SpanKind.PRODUCER, attributes=attributes
        )
        carrier: dict[str, str] = {}
        self._propagate.inject(carrier, context=self._trace.set_span_in_context(span))
        properties.update({name: value for name, value in carrier.items() if value})
        return span

    def sent(self, span: Any, result: SendResult | None, error: BaseException | None = None) -> None:
        """A send has ended."""
        if result is not None:
            span.set_attribute("messaging.destination.partition.id", str(result.queue.queue_id))
        if error is not None:
            span.record_exception(error)
            span.set_status(self._trace.Status(self._trace.StatusCode.ERROR, str(error)))
        span.end()

    @contextlib.contextmanager
    def processing(self, messages: Sequence[ReceivedMessage]) -> Iterator[Any]:
        """A span around a listener. One message continues the trace of its sender, several are linked to theirs."""
        first = messages[0]
        attributes = self._attributes("process", first.topic)
        contexts = [self._propagate.extract(one.properties) for one in messages]
        options: dict[str, Any] = {}
        if len(messages) == 1:
            attributes["messaging.message.id"] = first.message_id
            attributes["messaging.destination.partition.id"] = str(first.queue.queue_id)
            options["context"] = contexts[0]
        else:
            attributes["messaging.batch.message_count"] = len(messages)
            senders = [self._trace.get_current_span(one).get_span_context() for one in contexts]
            options["links"] = [self._trace.Link(one) for one in senders if one.is_valid]
        span = self._tracer.start_span(
            f"process {first.topic}", kind=self._trace.SpanKind.CONSUMER, attributes=attributes, **options
        )
        with self._trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
            yield span

    def failed(self, span: Any, error: BaseException) -> None:
        """The listener raised."""
        span.record_exception(error)
        span.set_status(self._trace.Status(self._trace.StatusCode.ERROR, str(error)))
