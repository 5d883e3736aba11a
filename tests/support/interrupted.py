"""Programs that use the client, each in a process of its own, interrupted at one of their steps: run as a script, for
tests/client/test_interrupts.py.

    python interrupted.py FOLDER_OF_FASTMQ NAMESRV KIND STEP STEP ...

Writes a line for each step: the step, where it was, and how the process ended. A step is a line of the client's code
with trio; with the blocking face, where an interrupt can only come between two calls, it is a call.
"""

from __future__ import annotations

import dis
import os
import signal
import sys
import tempfile
import time
from types import FrameType
from typing import Any, Final

sys.path.insert(0, sys.argv[1])

import anyio
import anyio._backends._trio

import fastmq
import fastmq.sync
from fastmq.client import pop, producer, push  # noqa: F401

NAMESRV, KIND = sys.argv[2:4]
STEPS: Final = [int(one) for one in sys.argv[4:]]
PATIENCE: Final = 30.0  # shorter than what a consumer waits for listeners here
HERE: Final = os.path.dirname(fastmq.__file__)
# after these the interpreter looks whether there was a signal
LOOKS: Final = {dis.opmap[name] for name in ("RESUME", "CALL", "CALL_KW", "CALL_FUNCTION_EX", "JUMP_BACKWARD") if name in dis.opmap}  # fmt: skip  # noqa: E501


class Interrupting:
    """Counts steps from `begin` on, in this thread, and interrupts at one of them."""

    def __init__(self, step: int, *, each_call: bool) -> None:
        self.where = ""
        self._left = step
        self._each_call = each_call
        self._counting = False
        self._last: dict[FrameType, int] = {}

    def begin(self) -> None:
        """From here on steps count."""
        self._counting = True

    def trace(self, frame: FrameType, event: str, argument: object) -> Any:
        """For `sys.settrace`."""
        return self._in_ours if frame.f_code.co_filename.startswith(HERE) else None

    def _in_ours(self, frame: FrameType, event: str, argument: object) -> Any:
        if self._each_call:
            frame.f_trace_opcodes = True
            looked = self._last.pop(frame, None) in LOOKS
            if event == "opcode":
                self._last[frame] = frame.f_code.co_code[frame.f_lasti]
            is_step = event == "opcode" and looked
        else:
            is_step = event == "line"
        if is_step and self._counting:
            self._left -= 1
            if not self._left:
                name = os.path.basename(frame.f_code.co_filename)
                self.where = f"{name}:{frame.f_lineno}:{frame.f_code.co_name}"
                signal.raise_signal(signal.SIGINT)
        return self._in_ours


async def _push(interrupting: Interrupting, group: str) -> None:
    heard = anyio.Event()

    async def listen(message: fastmq.ReceivedMessage) -> None:
        interrupting.begin()
        await anyio.sleep(0.01)
        heard.set()

    async with fastmq.PushConsumer(NAMESRV, group, listen, "t", start_from="first", drain_seconds=2 * PATIENCE):
        await heard.wait()
        await anyio.sleep(0.3)


async def _pop(interrupting: Interrupting, group: str) -> None:
    async with fastmq.PopConsumer(NAMESRV, group, "t", start_from="first") as consumer:
        interrupting.begin()
        for message in await consumer.receive(wait=1):
            await consumer.ack(message)


async def _open(interrupting: Interrupting, group: str) -> None:
    interrupting.begin()
    async with fastmq.Producer(NAMESRV, group) as sender:
        receipts = [sender.send_nowait(fastmq.Message("out", b"x")) for _ in range(3)]
        await sender.send("out", b"x")
        for receipt in receipts:
            await receipt


def _sync_send(interrupting: Interrupting, group: str) -> None:
    interrupting.begin()
    with fastmq.sync.Producer(NAMESRV, group) as sender:
        receipts = [sender.send_async(fastmq.Message("out", b"x")) for _ in range(3)]
        sender.send("out", b"x")
        for receipt in receipts:
            receipt.result()
        sender.send_async(fastmq.Message("out", b"x"))


def _sync_pop(interrupting: Interrupting, group: str) -> None:
    interrupting.begin()
    with fastmq.sync.PopConsumer(NAMESRV, group, "t", start_from="first") as consumer:
        for message in consumer.receive(wait=1):
            consumer.ack(message)


KINDS: Final[dict[str, Any]] = {
    "push": _push, "pop": _pop, "open": _open, "sync send": _sync_send, "sync pop": _sync_pop,
}  # fmt: skip


def _process(step: int, out: int) -> None:
    """One program, from here to the end of its process."""
    blocking = KIND.startswith("sync")
    interrupting = Interrupting(step, each_call=blocking)
    group = f"interrupted-{os.getpid()}"
    sys.settrace(interrupting.trace)
    try:
        if blocking:
            KINDS[KIND](interrupting, group)
        else:
            anyio.run(KINDS[KIND], interrupting, group, backend="trio")
        outcome = "left"
    except KeyboardInterrupt:
        outcome = "interrupted"
    except BaseException as error:
        outcome = f"failed with {type(error).__name__}"
    sys.settrace(None)
    os.write(out, f"{interrupting.where} {outcome}".encode())
    sys.exit(0)  # with what is done at the end of an interpreter


def _run(step: int) -> str:
    """How a process that is interrupted at a step ends."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        pid = os.fork()
        if not pid:
            os.dup2(errors.fileno(), 2)
            _process(step, out.fileno())
        deadline = time.monotonic() + PATIENCE
        status = None
        while status is None and time.monotonic() < deadline:
            ended, code = os.waitpid(pid, os.WNOHANG)
            status = code if ended else None
            time.sleep(0.002)
        if status is None:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        out.seek(0)
        errors.seek(0)
        text = out.read().decode() or "? "
        if status is None:
            text += " and hangs"
        elif status:
            text += f" and ends with {status}"
        return text + "".join(f" | {line}" for line in errors.read().decode().splitlines())


for each in STEPS:
    print(each, _run(each), flush=True)
