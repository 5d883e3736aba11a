"""Blocking sends."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack, overload

import anyio.to_thread

from fastmq.client import producer as aproducer
from fastmq.client.errors import ClientClosed, ClientError
from fastmq.client.messages import Message, ReceivedMessage, SendResult
from fastmq.client.producer import DEFAULT_GROUP, CheckListener, ProducerOptions, Selector, TransactionState
from fastmq.protocol.bodies.config import (
    MessageQueue,
)
from fastmq.sync.loop import Blocking, Where, inner_where
from fastmq.sync.outcome import Outcome
from fastmq.sync.pipe import Pipe, Put

T = TypeVar("T")

log = logging.getLogger("fastmq.client")


class Receipt:
    """A send in flight, see `fastmq.Receipt`."""

    def __init__(self, outcome: Outcome[SendResult]) -> None:
        self._outcome = outcome

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self._outcome.done

    def result(self, timeout: float | None = None) -> SendResult:
        """Wait for the result. Raises what the send failed with, TimeoutError after `timeout` seconds."""
        return self._outcome.result(timeout)


class Producer(Blocking[aproducer.Producer]):
    """Blocking face of `fastmq.Producer`."""

    def __init__(self, where: Where = None, group: str = DEFAULT_GROUP, **options: Unpack[ProducerOptions]) -> None:
        check = options.get("check")
        if callable(check) and not inspect.iscoroutinefunction(check):
            options["check"] = _in_a_thread(check)
        super().__init__(lambda: aproducer.Producer(inner_where(where), group, **options))
        self._traced = options.get("telemetry", False)
        self._pipe: Pipe | None = None

    def open(self) -> Self:
        """What `with` does at its begin."""
        super().open()
        assert self._portal is not None
        self._pipe = None if self._traced else Pipe(self._it, self._portal.start_task_soon)
        return self

    def _before_close(self) -> None:
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            pipe.wait()

    def _run(self, call: Callable[..., Coroutine[Any, Any, T]], *args: Any, **kwargs: Any) -> T:
        """Behind what this thread has begun before."""
        pipe = self._pipe
        if pipe is not None:
            self._check()
            pipe.wait()
        return super()._run(call, *args, **kwargs)

    @overload
    def send(
        self, message: Message, /, *, queue: MessageQueue | None = None, selector: Selector | None = None,
        timeout: float | None = None,
    ) -> SendResult: ...  # fmt: skip

    @overload
    def send(
        self, topic: str, body: bytes | str, /, *, tag: str | None = None, keys: str | Sequence[str] = (),
        sharding_key: str | None = None, timeout: float | None = None,
    ) -> SendResult: ...  # fmt: skip

    def send(self, message: Any, body: Any = b"", /, **options: Any) -> SendResult:
        """Send a message and wait until the broker has it."""
        arguments = (message, body) if isinstance(message, str) else (message,)
        return self._run(self._it.send, *arguments, **options)

    def send_async(
        self, message: Message, *, queue: MessageQueue | None = None, selector: Selector | None = None
    ) -> Receipt:
        """Begin a send; waits only while too many are in flight.

        What is wrong with the message is said by the receipt, too.
        """
        pipe = self._pipe
        if pipe is None:  # not open, or traced: a span belongs to what this thread is doing now
            one = Put(message, queue, selector)
            self._run(self._it.send_async, message, queue=queue, selector=selector, callback=one.ended)
            return Receipt(one.outcome)
        self._check()
        return Receipt(pipe.put(message, queue, selector))

    def send_batch(
        self, messages: Sequence[Message], *, queue: MessageQueue | None = None, timeout: float | None = None
    ) -> SendResult:
        """Send messages of one topic as one request."""
        return self._run(self._it.send_batch, messages, queue=queue, timeout=timeout)

    def send_oneway(
        self, message: Message, *, queue: MessageQueue | None = None, selector: Selector | None = None
    ) -> None:
        """Send without an answer."""
        self._run(self._it.send_oneway, message, queue=queue, selector=selector)

    def flush(self) -> None:
        """Wait until no send is in flight."""
        self._run(self._it.flush)

    def queues(self, topic: str) -> list[MessageQueue]:
        """The queues of a topic that can be sent to."""
        return self._run(self._it.queues, topic)

    def request(self, message: Message, timeout: float = 3.0) -> ReceivedMessage:
        """Send a message and wait for the message that answers it."""
        return self._run(self._it.request, message, timeout)

    def reply(
        self, request: ReceivedMessage, body: bytes | str, *, timeout: float | None = None, tag: str | None = None
    ) -> SendResult:
        """Answer a message that was sent with `request`."""
        return self._run(self._it.reply, request, body, timeout=timeout, tag=tag)

    def recall(self, sent: SendResult | str, *, timeout: float | None = None) -> str:
        """Take a message with `delay` or `deliver_at` back before it is delivered. Returns its id."""
        return self._run(self._it.recall, sent, timeout=timeout)

    def transaction(self, message: Message, *, timeout: float | None = None) -> Transaction:
        """A message that consumers see only if the block ends well."""
        return Transaction(self, message, timeout)

    def send_half(self, message: Message, timeout: float | None = None) -> SendResult:
        """The first half of a transaction."""
        return self._run(self._it.send_half, message, timeout)

    def end_transaction(self, half: SendResult, state: TransactionState, *, remark: str | None = None) -> None:
        """The second half."""
        self._run(self._it.end_transaction, half, state, remark=remark)


def _in_a_thread(check: CheckListener) -> CheckListener:
    """A check listener that may block, and call what blocks, as listeners may."""

    async def ask(message: ReceivedMessage) -> TransactionState:
        answer = await anyio.to_thread.run_sync(check, message)
        return await answer if isinstance(answer, Awaitable) else answer

    return ask


class Transaction:
    """A transaction in progress; see `fastmq.Transaction`."""

    def __init__(self, producer: Producer, message: Message, timeout: float | None) -> None:
        self.state = TransactionState.COMMIT
        self.message = message
        self._producer = producer
        self._timeout = timeout
        self._half: SendResult | None = None

    @property
    def half(self) -> SendResult:
        """Where the half message is."""
        if self._half is None:
            raise ClientClosed("the transaction has not begun")
        return self._half

    @property
    def message_id(self) -> str:
        """The id that consumers will see."""
        return self.half.message_id

    def __enter__(self) -> Self:
        self._half = self._producer.send_half(self.message, self._timeout)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._producer.end_transaction(self.half, self.state)
            return
        try:
            self._producer.end_transaction(self.half, TransactionState.ROLLBACK, remark=repr(error))
        except ClientError as failure:
            # what ended the block is what its user has to see; the broker will ask what became of it
            log.warning("the transaction of %s is not rolled back yet: %s", self.half.message_id, failure)
