"""The reference of the client's names, made of their docstrings.

`python -m fastmq.client.reference docs/client-api.md` writes it.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import fastmq
from fastmq.client.options import ConsumerOptions
from fastmq.client.sending import SenderOptions
from fastmq.client.session import SessionOptions

INTERNAL = ("heartbeat_part", "on_reply", "on_server_request", "routes_changed", "settle")

HEAD = """# Client API

Made from the docstrings by `python -m fastmq.client.reference docs/client-api.md`; a test holds it current. The names
are those of `fastmq`; `fastmq.sync` has the clients without `await`. How to use them: [client.md](client.md).
"""


def reference() -> str:
    """The whole page."""
    parts = [HEAD]
    things = {name: getattr(fastmq, name) for name in sorted(fastmq.__all__)}
    errors = {name: one for name, one in things.items() if inspect.isclass(one) and issubclass(one, Exception)}
    for name, one in things.items():
        if name not in errors and name != "BasicClient":
            parts += _describe(name, one)
    parts.append("## Options\n")
    for kind in (SessionOptions, SenderOptions, ConsumerOptions):
        parts.append(f"`{kind.__name__}`: {_text(kind)}\n")
        parts += [f"- `{name}: {text}`" for name, text in _options(kind)]
        parts.append("")
    parts.append("## Exceptions\n")
    parts += [f"- `{name}({one.__bases__[0].__name__})`: {_text(one)}" for name, one in errors.items()]
    return "\n".join(parts) + "\n"


def _describe(name: str, one: Any) -> Iterator[str]:
    if not inspect.isclass(one):
        yield f"## {name}\n\n```python\n{name}{_signature(one)}\n```\n\n{_text(one)}\n"
        return
    yield f"## {name}\n"
    if issubclass(one, Enum):
        yield f"{_text(one)}\n\nMembers: {', '.join(f'`{member.name}`' for member in one)}.\n"
        return
    plain = dataclasses.is_dataclass(one) or hasattr(one, "_fields")
    if plain or "__init__" in _own(one):
        yield f"```python\n{name}{_signature(one)}\n```\n"
    yield f"{_text(one)}\n"
    for member, value in sorted(_own(one).items()):
        if member.startswith("_") or member in INTERNAL or not getattr(value, "__doc__", None):
            continue
        if isinstance(value, property):
            yield f"- `{member}`: {_text(value)}"
        elif inspect.isfunction(value):
            prefix = "await " if inspect.iscoroutinefunction(value) else ""
            yield f"- `{prefix}{member}{_signature(value)}`: {_text(value)}"
        elif isinstance(value, classmethod):
            yield f"- `{member}{_signature(value.__func__)}`: {_text(value.__func__)}"
    yield ""


def _options(kind: Any) -> Iterator[tuple[str, str]]:
    inherited = () if kind is SessionOptions else SessionOptions.__annotations__
    for name, annotation in kind.__annotations__.items():
        if name not in inherited:
            yield name, getattr(annotation, "__forward_arg__", str(annotation))


def _own(one: type) -> dict[str, Any]:
    """The members of a class and of its bases in this package."""
    found: dict[str, Any] = {}
    for base in reversed(one.__mro__):
        if base.__module__.startswith("fastmq."):
            found.update(vars(base))
    return found


def _signature(one: Any) -> str:
    try:
        signature = inspect.signature(one)
    except ValueError:
        return "(...)"
    shown = [parameter for name, parameter in signature.parameters.items() if name not in ("self", "cls", "_cls")]
    text = str(signature.replace(parameters=shown, return_annotation=signature.return_annotation))
    return text.replace("'", "").replace(" -> None", "")


def _text(one: Any) -> str:
    """A docstring as one paragraph after the other, each on one line."""
    paragraphs = (inspect.getdoc(one) or "").split("\n\n")
    return " ".join(" ".join(paragraph.split()) for paragraph in paragraphs if not paragraph.startswith("    "))


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(reference())
