"""Where Ctrl-C may come in.

With trio, SIGINT raises KeyboardInterrupt between any two instructions of whatever task runs at that moment. Nothing
can be kept consistent against that: a task that is interrupted before its first line never says that it has ended, and
who waits for it waits for ever. So the methods of what is open are protected, which trio offers for such code: the main
task gets the interrupt instead, where it waits next. What users give us stays open to it (`exposed`). asyncio cancels
the main task and interrupts nothing.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Awaitable, Callable
from types import ModuleType
from typing import Any, TypeVar

T = TypeVar("T")

_OURS = "fastmq."


def _running_trio() -> ModuleType | None:
    """trio if it runs in this thread. Does not import it: that takes longer than a client needs to open."""
    trio = sys.modules.get("trio")
    return trio if trio is not None and trio.lowlevel.in_trio_run() else None


def protect(*kinds: type) -> None:
    """Keep interrupts out of the methods of these classes, and out of all that they call, if trio runs. They are kept
    out from then on; saying it again changes nothing. A task that is started begins anew: with one of these methods.
    """
    trio = _running_trio()
    if trio is None:
        return
    for kind in dict.fromkeys(base for one in kinds for base in one.__mro__ if base.__module__.startswith(_OURS)):
        for member in vars(kind).values():
            method = inspect.unwrap(getattr(member, "__func__", member))  # not what all decorated functions share
            if inspect.isfunction(method):
                trio.lowlevel.enable_ki_protection(method)


def exposed(call: Callable[[Any], Awaitable[T]]) -> Callable[[Any], Awaitable[T]]:
    """A function of a user that can be interrupted wherever it is, though protected code calls it: it may not come to
    wait for anything.
    """
    trio = _running_trio()
    if trio is None:
        return call

    async def interruptible(argument: Any) -> T:
        return await call(argument)

    trio.lowlevel.disable_ki_protection(interruptible)
    return interruptible
