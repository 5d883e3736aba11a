"""The Python gRPC client (`rocketmq-python-client`), through a proxy. See measured.py."""

from __future__ import annotations

import argparse
import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from measured import Meter, arguments, leave, one_by_one, pipelined
from rocketmq import (  # type: ignore[import-not-found]
    ClientConfiguration,
    ConsumeResult,
    Credentials,
    FilterExpression,
    Message,
    MessageListener,
    Producer,
    PushConsumer,
    SimpleConsumer,
)

RECEIVERS = 8  # requests for messages that wait at the same time: one for each queue
INVISIBLE_SECONDS = 60


def send(options: argparse.Namespace, configuration: Any) -> None:
    body = b"x" * options.body
    producer = Producer(configuration, (options.topic,))
    producer.startup()

    def made() -> Any:
        message = Message()
        message.topic = options.topic
        message.body = body
        return message

    if options.mode == "send":
        return one_by_one(lambda: producer.send(made()), options)

    def begin(done: Callable[[bool], None]) -> None:
        def ended(future: Future[Any]) -> None:
            done(future.exception() is None)

        producer.send_async(made()).add_done_callback(ended)

    return pipelined(begin, options)


def push(options: argparse.Namespace, configuration: Any) -> None:
    meter = Meter()

    class Listener(MessageListener):  # type: ignore[misc]
        def consume(self, message: Any) -> Any:
            if message.body:
                meter.add()
            return ConsumeResult.SUCCESS

    consumer = PushConsumer(configuration, options.group, Listener(), {options.topic: FilterExpression()})
    consumer.startup()
    meter.wait(options)


def simple(options: argparse.Namespace, configuration: Any) -> None:
    meter = Meter()
    consumer = SimpleConsumer(configuration, options.group, {options.topic: FilterExpression()}, 5)
    consumer.startup()

    def receive() -> None:
        asyncio.set_event_loop(asyncio.new_event_loop())  # it asks for one, and uses another
        while True:
            try:
                messages = consumer.receive(32, INVISIBLE_SECONDS)
            except Exception:  # the proxy does not know its settings for a moment after the start
                time.sleep(0.1)
                continue
            for message in messages or ():
                consumer.ack_async(message)
            if messages:
                meter.add(len(messages))

    for _ in range(RECEIVERS):
        threading.Thread(target=receive, daemon=True).start()
    meter.wait(options)


def main() -> None:
    modes = {"send": send, "send-async": send, "push": push, "simple": simple}
    options = arguments(tuple(modes))
    modes[options.mode](options, ClientConfiguration(options.address, Credentials()))
    leave()


if __name__ == "__main__":
    main()
