from __future__ import annotations

import itertools
import math

import pytest

from fastmq.broker.filter.expression import Expression, ExpressionCache
from fastmq.broker.filter.syntax import ExpressionError
from fastmq.broker.filter.values import compare_doubles, to_boolean, to_double, to_int, to_long

# conditions with a known result for every message, to build truth tables from
WITH = {True: "(a IS NULL)", False: "(a IS NOT NULL)", None: "(a > 1)"}
NEVER_A = {"n": "5", "color": "red", "flag": "true", "d": "5.5", "big": "3000000000", "empty": " "}


def evaluate(text: str, properties: dict[str, str] | None = None) -> bool | str | None:
    try:
        return Expression(text).evaluate(NEVER_A if properties is None else properties)
    except ValueError:
        return "fails"


def all_of(left: bool | None, right: bool | None) -> bool | None:
    if left is False or right is False:
        return False
    return None if left is None or right is None else True


@pytest.mark.parametrize(("left", "right"), list(itertools.product((True, False, None), repeat=2)))
def test_three_valued_and_or(left: bool | None, right: bool | None) -> None:
    assert evaluate(f"{WITH[left]} AND {WITH[right]}") is all_of(left, right)
    negated = all_of(None if left is None else not left, None if right is None else not right)
    assert evaluate(f"{WITH[left]} OR {WITH[right]}") is (None if negated is None else not negated)


@pytest.mark.parametrize(("value", "negated"), [(True, False), (False, True), (None, None)])
def test_three_valued_not(value: bool | None, negated: bool | None) -> None:
    assert evaluate(f"NOT {WITH[value]}") is negated
    assert evaluate(f"NOT NOT {WITH[value]}") is value
    assert evaluate(f"{WITH[value]} IS NULL") is (value is None)
    assert evaluate(f"{WITH[value]} IS NOT NULL") is (value is not None)


@pytest.mark.parametrize(
    ("text", "result"),
    [
        # a missing property
        ("a = 5", None),
        ("a <> 5", None),
        ("5 = a", False),
        ("5 <> a", True),
        ("n = a", False),
        ("a = n", None),
        ("a = b", True),
        ("a <> b", False),
        ("a > 5", None),
        ("5 < a", None),
        ("n > a", None),
        ("a IS NULL", True),
        ("n IS NULL", False),
        ("a", None),
        ("a IN ('x')", None),
        ("a NOT IN ('x')", None),
        ("a CONTAINS 'x'", False),
        ("a NOT CONTAINS 'x'", False),
        ("a NOT STARTSWITH 'x'", False),
        ("a NOT ENDSWITH 'x'", False),
        ("a BETWEEN 1 AND 2", None),
        ("a NOT BETWEEN 1 AND 2", None),
        # numbers: the constant's type decides how the text is read
        ("n = 5", True),
        ("n = 5.0", True),
        ("n > 4 AND n >= 5 AND n < 6 AND n <= 5", True),
        ("5 = n AND 4 < n AND 6 > n AND 5 <= n AND 5 >= n", True),
        ("n = -5", False),
        ("d > 5.4", True),
        ("d > 5", "fails"),
        ("d = 5", "fails"),
        ("big > 5", "fails"),
        ("big > 2147483648", True),
        ("color > 5", "fails"),
        ("empty = 5", "fails"),
        ("n BETWEEN 5 AND 6", True),
        ("n BETWEEN 6 AND 7", False),
        ("n NOT BETWEEN 6 AND 7", True),
        ("5 > 4", True),
        ("5 > 4.5", True),
        ("5 = 5.0", True),
        ("-n IS NULL", True),
        ("- -5 = n", True),
        ("-(5) = n", False),
        # texts
        ("color = 'red'", True),
        ("color = 'Red'", False),
        ("color <> 'blue'", True),
        ("color IN ('blue', 'red')", True),
        ("color NOT IN ('blue', 'red')", False),
        ("color IN ('a', 'b', 'c', 'd', 'e', 'red')", True),
        ("color CONTAINS 'e'", True),
        ("color NOT CONTAINS 'e'", False),
        ("color CONTAINS ''", False),
        ("color NOT CONTAINS ''", False),
        ("color STARTSWITH 're' AND color ENDSWITH 'ed'", True),
        ("color NOT STARTSWITH 'x' AND color NOT ENDSWITH 'x'", True),
        ("5 CONTAINS '5'", False),
        ("'abc' CONTAINS 'b'", True),
        ("n > d", False),
        ("d > n", True),
        ("color > n", "fails"),
        # booleans
        ("flag = TRUE", True),
        ("flag <> TRUE", False),
        ("color = FALSE", True),
        ("TRUE = flag", "fails"),
        ("5 = TRUE", False),
        ("TRUE = TRUE", True),
        ("(n = 5) = (n > 4)", True),
        ("(n = 5) = 5", False),
        ("flag", False),
        ("NOT flag", True),
        ("NULL", None),
        ("NULL OR TRUE", True),
        # what decides first hides what would fail behind it
        ("n = 5 OR color > 5", True),
        ("color > 5 OR n = 5", "fails"),
        ("n = 6 AND color > 5", False),
        ("a > 1 AND color > 5", "fails"),
    ],
)
def test_rules(text: str, result: bool | str | None) -> None:
    assert evaluate(text) == result
    expression = Expression(text)
    assert expression.matches(NEVER_A) is (result is True)
    stored = "".join(f"{name}\x01{value}\x02" for name, value in NEVER_A.items()).encode()
    assert expression.matches_encoded(stored) is (result is True)


@pytest.mark.parametrize(
    ("stored", "value"),
    [
        (b"", None),
        (b"a\x01x\x02", "x"),
        (b"a\x01x", "x"),
        (b"b\x01a\x02a\x01x\x02", "x"),
        (b"aa\x01y\x02ba\x01z\x02", None),
        (b"a\x01\x02", None),
        (b"a\x01x\x02a\x01y\x02", "y"),
        (b"a\x01x\x02a\x01\x02", "x"),
        (b"a\x01x\x01y\x02", "x\x01y"),
        ("a\x01äö\x02".encode(), "äö"),
        (b"a\x01\xff\x02", "\ufffd"),
        (b"b\x01\x02a\x01x\x02", "x"),
    ],
)
def test_properties_as_stored(stored: bytes, value: str | None) -> None:
    if value is None:
        assert Expression("a IS NULL").matches_encoded(stored)
    else:
        assert Expression(f"a = '{value}'").matches_encoded(stored)


NO_DOUBLES = ["", " ", "x", "5x", "5 5", "inf", "nan", "+-5", "+-NaN", "0x1", "1_000", "٣", "5dd", "." * 500]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5.0), (" 5\t", 5.0), ("+5", 5.0), ("-.5", -0.5), ("5.", 5.0), ("5e1", 50.0), ("5d", 5.0), ("5.5F", 5.5),
        ("NaN", math.nan), ("-Infinity", -math.inf), ("+Infinity", math.inf), ("0x1p3", 8.0), ("0x1.8p1d", 3.0),
        ("1e999", math.inf), ("-0x1p99999", -math.inf),
    ],
)  # fmt: skip
def test_texts_as_doubles(text: str, value: float) -> None:
    assert to_double(text) == value or (math.isnan(value) and math.isnan(to_double(text)))


@pytest.mark.parametrize("text", NO_DOUBLES)
def test_texts_that_are_no_doubles(text: str) -> None:
    with pytest.raises(ValueError, match="not a number"):
        to_double(text)


def test_texts_as_integers() -> None:
    assert [to_int(text) for text in ("5", "-5", "+5", "007", "2147483647", "-2147483648", "٣")] == [
        5, -5, 5, 7, 2147483647, -2147483648, 3
    ]  # fmt: skip
    assert to_long("9223372036854775807") == 9223372036854775807
    for text in ("2147483648", "", " 5", "5.0", "1_000", "5L", "1" * 5000):
        with pytest.raises(ValueError):  # noqa: PT011
            to_int(text)
    with pytest.raises(ValueError, match="out of range"):
        to_long("9223372036854775808")
    assert [to_boolean(text) for text in ("true", "TRUE", "yes", "")] == [True, True, False, False]


def test_doubles_are_ordered_as_in_java() -> None:
    ordered = [-math.inf, -1.0, -0.0, 0.0, 1.0, math.inf, math.nan]
    for (i, one), (j, other) in itertools.product(enumerate(ordered), repeat=2):
        assert (compare_doubles(one, other) > 0) is (i > j)
        assert (compare_doubles(one, other) == 0) is (i == j)


def test_cache_keeps_the_most_recently_used() -> None:
    cache = ExpressionCache(2)
    first = cache.compile("a = 1")
    second = cache.compile("a = 2")
    assert cache.compile("a = 1") is first
    cache.compile("a = 3")
    assert cache.compile("a = 1") is first
    assert cache.compile("a = 2") is not second
    assert len(cache) == 2


def test_cache_keeps_errors_but_no_giants() -> None:
    cache = ExpressionCache()
    with pytest.raises(ExpressionError) as one:
        cache.compile("a >> 5")
    with pytest.raises(ExpressionError) as other:
        cache.compile("a >> 5")
    assert one.value is other.value
    with pytest.raises(ExpressionError):
        cache.compile("a = 1 " * 10_000)
    assert len(cache) == 1
