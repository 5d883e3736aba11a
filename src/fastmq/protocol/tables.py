"""The tables of docs/protocol.md, made from the code.

    python -m fastmq.protocol.tables docs/protocol.md

rewrites what stands between the markers of the file; a test fails when the file is not current.
"""

from __future__ import annotations

import sys
from pathlib import Path

from fastmq.protocol.codes import REQUESTS, ResponseCode
from fastmq.protocol.fields import Header

BEGIN = "<!-- {name}: made by fastmq.protocol.tables -->"
END = "<!-- end of {name} -->"


def _fields(header: type[Header] | None) -> str:
    if header is None:
        return "–"
    return ", ".join(f"`{name}`{'!' if name in header.REQUIRED else ''}" for name in header.WIRE_NAMES.values())


def request_table() -> str:
    """The request table as Markdown. `!` marks a required ext field."""
    lines = [
        "| Code | Name | Direction | Served | Work | Request fields | Response fields |",
        "|---|---|---|---|---|---|---|",
    ]
    for code, row in sorted(REQUESTS.items()):
        served = "yes" if row.served else "no"
        lines.append(
            f"| {code} | {row.name} | {row.direction} | {served} | {row.work} | {_fields(row.header)} "
            f"| {_fields(row.reply_header)} |"
        )
    return "\n".join(lines)


def response_table() -> str:
    """The response codes as Markdown."""
    rows = [f"| {int(code)} | {code.name} |" for code in sorted(ResponseCode)]
    return "\n".join(["| Code | Name |", "|---|---|", *rows])


def render(text: str) -> str:
    """The document with its tables made anew. ValueError if a marker is missing."""
    for name, table in (("request table", request_table()), ("response table", response_table())):
        head, begin, rest = text.partition(BEGIN.format(name=name))
        _, end, tail = rest.partition(END.format(name=name))
        if not begin or not end:
            raise ValueError(f"the document has no markers of the {name}")
        text = f"{head}{begin}\n\n{table}\n\n{end}{tail}"
    return text


if __name__ == "__main__":
    document = Path(sys.argv[1])
    document.write_text(render(document.read_text(encoding="utf-8")), encoding="utf-8")
