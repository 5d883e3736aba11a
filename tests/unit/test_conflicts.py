from __future__ import annotations

import logging

import pytest

from fastmq.broker.state.conflicts import NOT_SUBSCRIBED, SubscriptionConflicts
from fastmq.protocol.bodies import SubscriptionData


def tags(text: str, topic: str = "t", version: int = 1) -> SubscriptionData:
    return SubscriptionData.from_expression(topic, text, "TAG", version)


def sql(text: str, topic: str = "t") -> SubscriptionData:
    return SubscriptionData(topic=topic, sub_string=text, expression_type="SQL92")


@pytest.fixture
def table(caplog: pytest.LogCaptureFixture) -> SubscriptionConflicts:
    caplog.set_level(logging.INFO)
    return SubscriptionConflicts()


def test_who_agrees_is_not_reported(table: SubscriptionConflicts, caplog: pytest.LogCaptureFixture) -> None:
    table.heard("g", 1, "one", [tags("a||b")])
    table.heard("g", 2, "two", [tags("b || a", version=2)])
    table.heard("h", 3, "three", [tags("c")])
    assert table.of_group("g") == {}
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("one", "two", "topic", "views"),
    [
        ([tags("a")], [tags("b")], "t", {"one": "a", "two": "b"}),
        ([tags("*")], [sql("a > 5")], "t", {"one": "*", "two": "SQL92: a > 5"}),
        ([sql("a > 6")], [sql("a > 5")], "t", {"one": "SQL92: a > 6", "two": "SQL92: a > 5"}),
        ([tags("*"), tags("a", "u")], [tags("*")], "u", {"one": "a", "two": NOT_SUBSCRIBED}),
    ],
)
def test_who_differs_is_reported_with_client_and_filter(
    table: SubscriptionConflicts,
    caplog: pytest.LogCaptureFixture,
    one: list[SubscriptionData],
    two: list[SubscriptionData],
    topic: str,
    views: dict[str, str],
) -> None:
    table.heard("g", 1, "one", one)
    table.heard("g", 2, "two", two)
    assert table.of_group("g") == {topic: views}
    (message,) = caplog.messages
    assert f"group g do not subscribe to the same of topic {topic}" in message
    assert f"one wants {views['one']}; two wants {views['two']}" in message


def test_once_for_each_change(table: SubscriptionConflicts, caplog: pytest.LogCaptureFixture) -> None:
    for version in range(5):
        table.heard("g", 1, "one", [tags("a", version=version)])
        table.heard("g", 2, "two", [tags("b", version=version)])
    assert len(caplog.messages) == 1
    table.heard("g", 3, "three", [tags("b")])
    assert len(caplog.messages) == 2
    table.heard("g", 1, "one", [tags("b")])
    assert table.of_group("g") == {}
    assert "subscribe to the same of topic t now" in caplog.messages[2]


def test_leaving_ends_it(table: SubscriptionConflicts, caplog: pytest.LogCaptureFixture) -> None:
    table.heard("g", 1, "one", [tags("a")])
    table.heard("g", 2, "two", [tags("b")])
    table.left("g", 9)
    table.left("g", 1)
    assert table.of_group("g") == {}
    table.left("g", 2)
    table.left("g", 2)
    table.heard("g", 3, "three", [tags("c")])
    assert table.of_group("g") == {}


def test_a_client_with_two_connections_is_one(table: SubscriptionConflicts) -> None:
    table.heard("g", 1, "one", [tags("a")])
    table.heard("g", 2, "one", [tags("b")])
    assert table.of_group("g") == {}
