"""Where log records go: readable lines for people, or one JSON object a line for machines. Both on standard error.

    12:03:05.123 INFO  nameserver: lost the connection of 10.0.0.7:41234
    {"time":"2026-11-21T12:03:05.123Z","level":"info","logger":"fastmq.nameserver","message":"lost the ..."}

JSON records also carry whatever `extra=` fields the call gave, and `error` with the traceback of an exception.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any, Final, TextIO

ROOT: Final = "fastmq"

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
_TAKEN: Final = frozenset({"time", "level", "logger", "message", "error"})


class ReadableFormatter(logging.Formatter):
    """Local time, level, part, message; a traceback follows on its own lines."""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        part = record.name.removeprefix(f"{ROOT}.")
        # what a peer sent must not be able to begin a line of its own
        message = record.getMessage().replace("\r", "\\r").replace("\n", "\\n")
        line = f"{clock}.{int(record.msecs):03d} {record.levelname:<5} {part}: {message}"
        error = _error_text(self, record)
        return line if error is None else f"{line}\n{error}"


class JsonFormatter(logging.Formatter):
    """One JSON object a line; times in UTC with milliseconds."""

    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields: dict[str, Any] = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields |= {name: value for name, value in vars(record).items() if name not in _STANDARD and name not in _TAKEN}
        error = _error_text(self, record)
        if error is not None:
            fields["error"] = error
        return json.dumps(fields, separators=(",", ":"), default=str)


def _error_text(formatter: logging.Formatter, record: logging.LogRecord) -> str | None:
    return formatter.formatException(record.exc_info) if record.exc_info and record.exc_info[0] else None


def setup(*, json_lines: bool = False, level: int = logging.INFO, stream: TextIO | None = None) -> logging.Handler:
    """Send the records of all `fastmq.*` loggers to a stream (standard error), replacing what an earlier call set up.

    Returns the handler. Loggers of the program around us are left alone, and do not see our records.
    """
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(JsonFormatter() if json_lines else ReadableFormatter())
    logger = logging.getLogger(ROOT)
    for old in list(logger.handlers):
        logger.removeHandler(old)
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
    return handler
