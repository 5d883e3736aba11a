"""Random SQL92 filters against a second, naive evaluator that works on the structure they were written from."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastmq.broker.filter.expression import Expression
from fastmq.broker.filter.syntax import ExpressionError, parse

NAMES = ("a", "b", "color", "_x", "$y1")
TEXTS = ("x", "red", "it's", "5", "äö", "true")
names = st.sampled_from(NAMES)
numbers = st.integers(-100, 100)
texts = st.sampled_from(TEXTS)
searches = st.sampled_from(["contains", "startswith", "endswith"])
word = st.sampled_from([str.upper, str.lower, str.title])


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


@st.composite
def leaf(draw: st.DrawFn) -> tuple[Any, ...]:
    kind = draw(st.sampled_from(["number", "between", "text", "null", "in", "search", "pair", "bare"]))
    name = draw(names)
    if kind == "number":
        return kind, name, draw(st.sampled_from(["=", "<>", "<", "<=", ">", ">="])), draw(numbers)
    if kind == "between":
        low, high = sorted((draw(numbers), draw(numbers)))
        return kind, name, low, high, draw(st.booleans())
    if kind == "text":
        return kind, name, draw(st.sampled_from(["=", "<>"])), draw(texts)
    if kind == "in":
        return kind, name, draw(st.lists(texts, min_size=1, max_size=6)), draw(st.booleans())
    if kind == "search":
        return (
            kind,
            name,
            draw(searches),
            draw(texts),
            draw(st.booleans()),
        )
    if kind == "pair":
        return kind, name, draw(names)
    return (kind, name, draw(st.booleans())) if kind == "null" else (kind, name)


trees: st.SearchStrategy[Any] = st.recursive(
    leaf(),
    lambda inner: st.one_of(
        st.tuples(st.just("and"), st.lists(inner, min_size=2, max_size=4)),
        st.tuples(st.just("or"), st.lists(inner, min_size=2, max_size=4)),
        st.tuples(st.just("not"), inner),
    ),
    max_leaves=12,
)


def written(tree: Any, case: Any) -> str:
    match tree:
        case ("and" | "or" as joint, parts):
            return f" {case(joint)} ".join(f"({written(part, case)})" for part in parts)
        case ("not", part):
            return f"{case('not')} ({written(part, case)})"
        case ("number", name, sign, number):
            return f"{name} {sign} {number}"
        case ("between", name, low, high, negated):
            return f"{name} {case('not ') if negated else ''}{case('between')} {low} {case('and')} {high}"
        case ("text", name, sign, text):
            return f"{name} {sign} {quoted(text)}"
        case ("in", name, items, negated):
            return f"{name} {case('not ') if negated else ''}{case('in')} ({', '.join(map(quoted, items))})"
        case ("search", name, operator, text, negated):
            return f"{name} {case('not ') if negated else ''}{case(operator)} {quoted(text)}"
        case ("null", name, negated):
            return f"{name} {case('is not null' if negated else 'is null')}"
        case ("pair", name, other):
            return f"{name} = {other}"
    return str(tree[1])


class Fails(Exception):
    """The evaluation throws in RocketMQ."""


def as_int(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise Fails from None


def reference(tree: Any, properties: dict[str, str]) -> bool | None:
    """The rules as the specification words them."""
    match tree:
        case ("and", parts):
            results = []
            for part in parts:
                results.append(reference(part, properties))
                if results[-1] is False:
                    return False
            return None if None in results else True
        case ("or", parts):
            results = []
            for part in parts:
                results.append(reference(part, properties))
                if results[-1] is True:
                    return True
            return None if None in results else False
        case ("not", part):
            result = reference(part, properties)
            return None if result is None else not result
    value = properties.get(tree[1])
    match tree:
        case ("null", _, negated):
            return (value is None) != negated
        case ("search", _, operator, text, negated):
            if value is None:
                return False
            found = {"contains": text in value, "startswith": value.startswith(text), "endswith": value.endswith(text)}
            return bool(found[operator] != negated)
        case ("pair", _, other):
            right = properties.get(other)
            if value is None:
                return True if right is None else None
            return value == right
    if value is None:
        return None
    match tree:
        case ("number", _, sign, number):
            left = as_int(value)
            return {"=": left == number, "<>": left != number, "<": left < number, "<=": left <= number,
                    ">": left > number, ">=": left >= number}[sign]  # fmt: skip
        case ("between", _, low, high, negated):
            return (low <= as_int(value) <= high) != negated
        case ("text", _, sign, text):
            return (value == text) == (sign == "=")
        case ("in", _, items, negated):
            return (value in items) != negated
    return False  # a bare property


properties_of_messages = st.dictionaries(names, st.one_of(texts, numbers.map(str)), max_size=5)


@settings(max_examples=300, deadline=None)
@given(trees, word, st.lists(properties_of_messages, min_size=1, max_size=5))
def test_filters_agree_with_the_rules(tree: Any, case: Any, messages: list[dict[str, str]]) -> None:
    expression = Expression(written(tree, case))
    for properties in messages:
        try:
            expected: bool | str | None = reference(tree, properties)
        except Fails:
            expected = "fails"
        try:
            result: bool | str | None = expression.evaluate(properties)
        except ValueError:
            result = "fails"
        assert result == expected
        stored = "".join(f"{name}\x01{value}\x02" for name, value in properties.items()).encode()
        assert expression.matches_encoded(stored) is (expected is True)


pieces = (*"a 5 'x' ( ) AND or not = <> > <= - + in , is null between contains TRUE 5.5 -- /* */ ;".split(), "'")  # noqa: SIM905


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(pieces), max_size=25).map(" ".join))
def test_any_text_is_a_filter_or_an_error_with_a_place(text: str) -> None:
    with contextlib.suppress(ExpressionError):
        parse(text)
        return
    with pytest.raises(ExpressionError) as caught:
        parse(text)
    assert caught.value.line == 1
    assert 1 <= caught.value.column <= len(text) + 1
