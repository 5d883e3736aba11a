from __future__ import annotations

import pytest

from fastmq.broker.filter.syntax import MAX_DEPTH, MAX_LENGTH, ExpressionError, parse


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "NOT a",
        "not not a",
        "a = 1 AND b = 2 OR c = 3",
        "a=5AND b=5",
        "TRUE",
        "null",
        "(a)",
        "a IS NOT NULL",
        "a IS NULL IS NULL",
        "(a = 1) = (b = 2)",
        "a IN ('x')",
        "(a) NOT IN ('x', 'y''z', '')",
        "a NOT BETWEEN 5 AND 3",
        "a BETWEEN -5 AND b",
        "a contains 'x' AND b Not StartsWith 'y' OR c ENDSWITH 'z'",
        "a > 5L AND b < .5 AND c >= 5. AND d <= 5E10 AND e = 1e-3",
        "a -- a comment\n = 5 /* and * another **/",
        "_x$1 = '' \t\r\n\f",
        "NOTED = 1 AND IN_ IS NULL",
        "a = 9223372036854775807",
        "a > 0L",
    ],
)
def test_conditions(text: str) -> None:
    parse(text)


@pytest.mark.parametrize(
    ("text", "column", "problem"),
    [
        ("", 1, "the filter ends"),
        ("a >> 5", 4, 'unexpected ">"'),
        ("a = ", 5, "the filter ends"),
        ("a = 5 b", 7, 'unexpected "b"'),
        ("a LIKE 'x%'", 3, 'unexpected "LIKE"'),
        ("a + 1 = 2", 3, 'unexpected "+"'),
        ("a = 'x", 5, "without closing quote"),
        ("a = 5; DROP", 6, '";" is no part'),
        ("a = 5 -- not ended", 7, 'unexpected "-"'),
        ("007 = a", 2, 'unexpected "0"'),
        ("a NOT b", 7, 'unexpected "b"'),
        ("5", 1, "a condition is needed"),
        ("a = 1 AND 'x'", 11, "a condition is needed"),
        ("NOT 5", 5, "a condition is needed"),
        ("a = NULL", 5, "IS NULL"),
        ("NULL <> a", 1, "IS NULL"),
        ("TRUE = 5", 1, "cannot be compared"),
        ("a > 'x'", 5, "'x' has no order"),
        ("a > TRUE", 5, "TRUE has no order"),
        ("a > NULL", 5, "NULL has no order"),
        ("(a = 1) > 5", 2, "a condition has no order"),
        ("a BETWEEN 5 AND 3", 11, "5 is greater than 3"),
        ("a BETWEEN NULL AND 3", 11, "NULL has no order"),
        ("a BETWEEN 'x' AND 'y'", 11, "'x' has no order"),
        ("5 IN ('5')", 1, "IN needs a property"),
        ("a IN (5)", 7, 'unexpected "5"'),
        ("a IN ()", 7, 'unexpected ")"'),
        ("a = 9223372036854775808", 5, "is greater than 9223372036854775807"),
        ("a = 1e400", 5, "too large"),
        ("a = 0.0", 5, "write 0 for zero"),
        ("(a = 1", 7, "the filter ends"),
        ("a = 1)", 6, 'unexpected ")"'),
        ("a CONTAINS b", 12, 'unexpected "b"'),
    ],
)
def test_errors_point_at_the_column(text: str, column: int, problem: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        parse(text)
    assert (caught.value.line, caught.value.column) == (1, column)
    assert str(caught.value).startswith(f"line 1, column {column}: ")
    assert problem in str(caught.value)


def test_lines_are_counted() -> None:
    with pytest.raises(ExpressionError, match=r"^line 3, column 5: "):
        parse("a = 1\nAND -- the second\n b >> 2")
    with pytest.raises(ExpressionError, match=r"^line 2, column 4: the filter ends"):
        parse("a = 1\nAND")


def test_length_is_bounded() -> None:
    text = "a = '" + "x" * (MAX_LENGTH - 6) + "'"
    parse(text)
    with pytest.raises(ExpressionError, match=f"column {MAX_LENGTH + 1}: longer than"):
        parse(text + " ")


@pytest.mark.parametrize("text", ["NOT " * (MAX_DEPTH - 1) + "a", "(" * 3000 + "a" + ")" * 3000])
def test_deep_and_still_good(text: str) -> None:
    parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "NOT " * MAX_DEPTH + "a",
        "-" * (MAX_DEPTH + 1) + "1 < a",
        "a" + " = b" * (MAX_DEPTH + 1),
        "a" + " IS NULL" * (MAX_DEPTH + 1),
        "(a AND " * MAX_DEPTH + "a" + ")" * MAX_DEPTH,
    ],
)
def test_depth_is_bounded(text: str) -> None:
    with pytest.raises(ExpressionError, match="nested deeper than"):
        parse(text)


def test_long_and_flat_is_not_deep() -> None:
    parse(" OR ".join(["a=1"] * 2000))
    parse(" AND ".join(["a=1"] * 1500))
