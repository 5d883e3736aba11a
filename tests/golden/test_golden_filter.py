"""SQL92 filters against Apache RocketMQ's own parser and evaluator.

`data/sql92.jsonl` holds what rocketmq-filter 5.3.3 made of written and of random filters: `error` if it does not
compile one, else `cases` of properties and result (true, false, null, or "fails" when the evaluation throws).
"""

from __future__ import annotations

import json
from pathlib import Path

from fastmq.broker.filter.expression import Expression
from fastmq.broker.filter.syntax import ExpressionError

ROWS = [json.loads(line) for line in (Path(__file__).parent / "data" / "sql92.jsonl").read_text().splitlines()]

# Apache's parser ignores what stands behind a complete condition; here it is an error.
IGNORED_TAIL = {"a -- x", "a LIKE 'x%'", "a + 1 = 2", "a = 5 5"}


def test_what_compiles_compiles_here_too() -> None:
    wrong = []
    for row in ROWS:
        text = row["expression"]
        try:
            Expression(text)
        except ExpressionError as error:
            if "error" not in row and text not in IGNORED_TAIL:
                wrong.append(f"{text}: {error}")
        else:
            if "error" in row or text in IGNORED_TAIL:
                wrong.append(f"{text}: compiles")
    assert not wrong
    assert sum("error" in row for row in ROWS) > 100


def test_results_are_those_of_apache() -> None:
    wrong, outcomes = [], []
    for row in ROWS:
        if "error" in row or row["expression"] in IGNORED_TAIL:
            continue
        expression = Expression(row["expression"])
        for properties, expected in row["cases"]:
            try:
                result: bool | str | None = expression.evaluate(properties)
            except ValueError:
                result = "fails"
            if result != expected:
                wrong.append(f"{row['expression']} {properties}: {expected} became {result}")
            outcomes.append(expected)
            stored = "".join(f"{name}\x01{value}\x02" for name, value in properties.items()).encode()
            assert expression.matches(properties) is (expected is True)
            if "" not in properties.values():
                assert expression.matches_encoded(stored) is (expected is True)
    assert not wrong
    assert len(outcomes) > 800
    assert all(outcomes.count(outcome) > 50 for outcome in (True, False, None, "fails"))
