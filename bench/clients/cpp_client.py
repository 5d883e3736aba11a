"""The binding of the C++ client: `rocketmq-client-python` 2.0.0, and its fork `rocketmq` 0.4.4. See measured.py.

They have the same module name and nearly the same API; only the fork can send without waiting.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from measured import Meter, arguments, leave, one_by_one, pipelined
from rocketmq import client  # type: ignore[import-not-found]


def _address(it: Any, address: str) -> None:
    (getattr(it, "set_name_server_address", None) or it.set_namesrv_addr)(address)


def send(options: argparse.Namespace) -> None:
    body = b"x" * options.body
    producer = client.Producer(options.group)
    _address(producer, options.address)
    producer.start()

    def made() -> Any:
        message = client.Message(options.topic)
        message.set_body(body)
        return message

    if options.mode == "send":
        return one_by_one(lambda: producer.send_sync(made()), options)
    if not hasattr(producer, "send_async"):
        raise SystemExit("it has no asynchronous send")

    def begin(done: Callable[[bool], None]) -> None:
        producer.send_async(made(), lambda _: done(True), lambda _: done(False))

    return pipelined(begin, options)


def push(options: argparse.Namespace) -> None:
    meter = Meter()

    def on_message(message: Any) -> Any:
        if message.body:
            meter.add()
        return getattr(client, "ConsumeStatus", None) and client.ConsumeStatus.CONSUME_SUCCESS

    consumer = client.PushConsumer(options.group)
    _address(consumer, options.address)
    consumer.subscribe(options.topic, on_message)
    consumer.start()
    meter.wait(options)


def main() -> None:
    modes = {"send": send, "send-async": send, "push": push}
    options = arguments(tuple(modes))
    modes[options.mode](options)
    leave()


if __name__ == "__main__":
    main()
