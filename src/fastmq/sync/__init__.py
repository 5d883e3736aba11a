"""The client without `await`: the same names, blocking, safe for any number of threads.

    from fastmq.sync import Producer

    with Producer("127.0.0.1:9876") as producer:
        producer.send("topic", b"hello")

Behind it one thread runs an event loop for the whole process, from the first object that is opened to the last that is
closed. What is still open when the interpreter exits is closed in order: offsets are stored, groups are left. A client
does not survive a fork: in the child every call raises ClientClosed; make a new one there.
"""

from __future__ import annotations

from fastmq.sync.admin import Admin
from fastmq.sync.consumers import Consumer, PopConsumer, PushConsumer
from fastmq.sync.loop import Session
from fastmq.sync.producer import Producer, Receipt, Transaction

__all__ = ["Admin", "Consumer", "PopConsumer", "Producer", "PushConsumer", "Receipt", "Session", "Transaction"]
