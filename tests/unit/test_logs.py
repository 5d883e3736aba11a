"""Log lines as people and machines read them."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from fastmq import logs


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    logger = logging.getLogger(logs.ROOT)
    handlers, level, propagate = list(logger.handlers), logger.level, logger.propagate
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)
    logger.propagate = propagate


def lines(stream: io.StringIO) -> list[str]:
    return stream.getvalue().splitlines()


def test_a_readable_line_has_time_level_part_and_message() -> None:
    stream = io.StringIO()
    logs.setup(stream=stream)
    logging.getLogger("fastmq.nameserver").info("lost %s", "a")
    logging.getLogger("fastmq.nameserver").debug("not shown")
    (line,) = lines(stream)
    time, _, rest = line.partition(" ")
    assert len(time) == len("12:00:00.000")
    assert rest == "INFO  nameserver: lost a"


def test_what_a_peer_sent_cannot_forge_a_line() -> None:
    stream = io.StringIO()
    logs.setup(stream=stream)
    logging.getLogger("fastmq.net").warning("bad topic %s", "x\n12:00:00.000 INFO  broker: all is well")
    assert len(lines(stream)) == 1


def test_json_lines_are_one_object_each_with_extra_fields_and_tracebacks() -> None:
    stream = io.StringIO()
    logs.setup(json_lines=True, stream=stream)
    log = logging.getLogger("fastmq.broker")
    log.warning("slow\nflush %d", 5, extra={"took_ms": 12, "level": "not mine"})
    try:
        raise ValueError("boom")
    except ValueError:
        log.exception("failed")
    first, second = (json.loads(line) for line in lines(stream))
    assert first["level"] == "warning"
    assert first["logger"] == "fastmq.broker"
    assert first["message"] == "slow\nflush 5"
    assert first["took_ms"] == 12
    assert first["time"].endswith("Z")
    assert "error" not in first
    assert "ValueError: boom" in second["error"]


def test_setting_up_again_replaces_and_leaves_other_loggers_alone(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = io.StringIO(), io.StringIO()
    others = list(logging.getLogger().handlers)
    logs.setup(stream=first)
    logs.setup(stream=second, level=logging.ERROR)
    logging.getLogger("fastmq.x").error("once")
    logging.getLogger("fastmq.x").warning("below the level")
    assert lines(first) == []
    assert len(lines(second)) == 1
    assert logging.getLogger().handlers == others
