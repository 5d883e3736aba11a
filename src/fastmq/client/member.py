"""What producers and consumers have in common: a session of their own or a shared one, entered and left with them."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from types import TracebackType
from typing import Self, TypeVar

import anyio

from fastmq.client import interrupts
from fastmq.client.errors import ClientClosed
from fastmq.client.session import Session, SessionOptions
from fastmq.errors import UsageError
from fastmq.protocol import names

E = TypeVar("E", bound=StrEnum)


def choice(kind: type[E], value: E | str, what: str) -> E:
    """A member of an enumeration by its value. Raises UsageError that names them all."""
    try:
        return kind(value)
    except ValueError:
        members = ", ".join(repr(one.value) for one in kind)
        raise UsageError(f"{what} is one of {members}, not {value!r}") from None


class SessionUser:
    """Base of producers, consumers and Admin. Subclasses have `_open` and `_close`."""

    def __init__(self, where: str | Sequence[str] | Session | None, options: SessionOptions) -> None:
        if isinstance(where, Session):
            if options:
                raise UsageError(f"{', '.join(options)}: settings of the session that is given")
            self._session = where
            self._owns_session = False
        else:
            self._session = Session(where, **options)
            self._owns_session = True
        self._opened = False
        self._closed = False

    def __repr__(self) -> str:
        state = "open" if self._opened else "closed" if self._closed else "not open"
        return f"<{type(self).__name__}{self._whose()}, {state}>"

    def _whose(self) -> str:
        return ""

    @property
    def session(self) -> Session:
        """Its session. Raises ClientClosed outside of `async with`."""
        if not self._opened:
            raise ClientClosed("it is closed" if self._closed else "not open yet: use it inside `async with`")
        return self._session

    async def __aenter__(self) -> Self:
        if self._opened or self._closed:
            raise ClientClosed("it is opened once; make a new one")
        interrupts.protect(type(self))
        if self._owns_session:
            await self._session.__aenter__()
        self._opened = True
        try:
            await self._open()
        except BaseException as error:
            await self.__aexit__(type(error), error, error.__traceback__)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._opened:
            return
        try:
            with anyio.CancelScope(shield=True):
                await self._close()
        finally:
            self._opened = False
            self._closed = True
            if self._owns_session:
                await self._session.__aexit__(kind, error, trace)

    async def _open(self) -> None:
        raise NotImplementedError

    async def _close(self) -> None:
        raise NotImplementedError


class GroupUser(SessionUser):
    """Base of what belongs to a group of producers or consumers."""

    def __init__(self, where: str | Sequence[str] | Session | None, options: SessionOptions, group: str) -> None:
        super().__init__(where, options)
        wrong = names.validate_group(group)
        if wrong:
            raise UsageError(wrong)
        self.group = group
        self._wire_group = self._session.wrap(group)

    def _whose(self) -> str:
        return f" of group {self.group}"
