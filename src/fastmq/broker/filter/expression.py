"""A filter's tree to a closure over a message's properties, and a bounded cache of compiled filters.

The types of both sides of a comparison are known beforehand (see `syntax.Kind`), so each comparison becomes the one
closure its types need. The rules, also those that surprise, are RocketMQ's (ComparisonExpression, LogicExpression,
UnaryExpression):

    AND, OR, NOT        true, false, unknown; a missing property is unknown
    a = b               unknown if only a is missing, FALSE if only b is, TRUE if both are
    a > b               unknown if one is missing; two texts are compared as doubles
    text with number    the text is read as the number's type: '5.5' is no int, 3000000000 is none either
    text no number      the evaluation fails: the message does not match, whatever stands beside it
    [NOT] CONTAINS      FALSE for a missing property, with NOT as well; the same for STARTSWITH and ENDSWITH
    [NOT] IN            unknown for a missing property

An evaluation stops at the first FALSE of an AND and the first TRUE of an OR; what stands behind cannot fail any more.

Where mypy is told to ignore a line, the kinds that were looked at before say what it cannot see: the type of the value.
"""

from __future__ import annotations

import operator
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final

from fastmq.broker.filter import syntax
from fastmq.broker.filter.syntax import ExpressionError, Kind, Node
from fastmq.broker.filter.values import compare_doubles, to_boolean, to_double, to_int, to_long
from fastmq.errors import InternalError

Value = str | int | float | bool | None
Properties = Mapping[str, str]
Evaluate = Callable[[Properties], Value]
Condition = Callable[[Properties], "bool | None"]

CACHE_SIZE: Final = 256

_OPERATORS: Final[dict[str, Callable[[int, int], bool]]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}
_MIRRORED: Final = {">": "<", ">=": "<=", "<": ">", "<=": ">="}
_READ: Final[dict[Kind, Callable[[str], int | float]]] = {
    Kind.INT: to_int,
    Kind.LONG: to_long,
    Kind.DOUBLE: to_double,
    Kind.BOOLEAN: to_boolean,
}


class Expression:
    """A compiled filter. It knows nothing of the group it belongs to, so all groups with one text share it."""

    __slots__ = ("_condition", "_keys", "text")

    def __init__(self, text: str) -> None:
        """Compile. Raises ExpressionError."""
        tree = syntax.parse(text)
        names: dict[str, bytes] = {}
        self.text = text
        self._condition = _condition(tree, names)
        self._keys = tuple(names.items())

    def evaluate(self, properties: Properties) -> bool | None:
        """TRUE, FALSE or None for unknown. ValueError if the evaluation fails."""
        return self._condition(properties)

    def matches(self, properties: Properties) -> bool:
        """Whether a message with these properties passes the filter."""
        try:
            return self._condition(properties) is True
        except ValueError:
            return False

    def matches_encoded(self, properties: bytes) -> bool:
        """The same for properties as they are stored: `name 0x01 value 0x02`, again and again."""
        stored = b"\x02" + properties
        found = {}
        for name, key in self._keys:
            at = stored.rfind(key)
            while at >= 0:
                begin = at + len(key)
                end = stored.find(b"\x02", begin)
                value = stored[begin:] if end < 0 else stored[begin:end]
                if value:
                    found[name] = value.decode("utf-8", "replace")
                    break
                at = stored.rfind(key, 0, at + 1)  # an empty value counts as none: one before it may not be empty
        try:
            return self._condition(found) is True
        except ValueError:
            return False


class ExpressionCache:
    """Compiled filters and the errors of those that do not compile, the most recently used ones."""

    def __init__(self, size: int = CACHE_SIZE) -> None:
        self._size = size
        self._kept: OrderedDict[str, Expression | ExpressionError] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def compile(self, text: str) -> Expression:
        """The compiled filter. Raises ExpressionError."""
        kept = self._kept.get(text)
        if kept is None:
            try:
                kept = Expression(text)
            except ExpressionError as error:
                kept = error.with_traceback(None)
            if len(text) <= syntax.MAX_LENGTH:
                self._kept[text] = kept
            if len(self._kept) > self._size:
                self._kept.popitem(last=False)
        else:
            self._kept.move_to_end(text)
        if isinstance(kept, ExpressionError):
            raise kept
        return kept


# --- from tree to closure ---------------------------------------------------------------------------------------------


def _condition(node: Node, names: dict[str, bytes]) -> Condition:
    """A node that gives TRUE, FALSE or unknown. Names of properties it needs go to `names`."""
    match node:
        case syntax.Constant(kind=Kind.BOOLEAN | Kind.NULL, value=bool() | None as value):
            return lambda properties: value
        case syntax.Or(operands=operands):
            return _any_of(tuple(_condition(operand, names) for operand in operands))
        case syntax.And(operands=operands):
            return _all_of(tuple(_condition(operand, names) for operand in operands))
        case syntax.Not(operand=operand):
            return _not(_condition(operand, names))
        case syntax.Cast(operand=operand):
            name = _name(operand, names)
            return lambda properties: None if name not in properties else False
        case syntax.Equal():
            return _equal(node, names)
        case syntax.Relation():
            return _relation(node, names)
        case syntax.TextSearch():
            return _search(node, names)
        case syntax.In():
            return _in(node, names)
    raise InternalError(f"no condition: {node}")


def _value(node: Node, names: dict[str, bytes]) -> tuple[Kind, Evaluate]:
    """Any node, and the type of what it gives when that is not null."""
    match node:
        case syntax.Constant(kind=kind, value=value):
            return kind, lambda properties: value
        case syntax.Property():
            name = _name(node, names)
            return Kind.STRING, lambda properties: properties.get(name)
        case syntax.Negative(operand=operand):
            kind, evaluate = _value(operand, names)
            if kind.is_number:
                number = evaluate({})
                return kind, lambda properties: -number  # type: ignore[operator]
            return Kind.NULL, lambda properties: (evaluate(properties), None)[1]
    return Kind.BOOLEAN, _condition(node, names)


def _name(node: syntax.Property, names: dict[str, bytes]) -> str:
    names[node.name] = b"\x02" + node.name.encode() + b"\x01"
    return node.name


def _any_of(conditions: tuple[Condition, ...]) -> Condition:
    def any_of(properties: Properties) -> bool | None:
        result: bool | None = False
        for condition in conditions:
            value = condition(properties)
            if value:
                return True
            if value is None:
                result = None
        return result

    return any_of


def _all_of(conditions: tuple[Condition, ...]) -> Condition:
    def all_of(properties: Properties) -> bool | None:
        result: bool | None = True
        for condition in conditions:
            value = condition(properties)
            if value is None:
                result = None
            elif not value:
                return False
        return result

    return all_of


def _not(condition: Condition) -> Condition:
    def negated(properties: Properties) -> bool | None:
        value = condition(properties)
        return None if value is None else not value

    return negated


def _fail(_left: Value, _right: Value) -> bool:
    raise ValueError("a boolean cannot be compared with a text")


def _differ(_left: Value, _right: Value) -> bool:
    return False


def _equality(left: Kind, right: Kind) -> Callable[[Value, Value], bool]:
    """Whether two values of these types, neither of them null, are equal."""
    if left is right or (left.is_number and right.is_number and Kind.DOUBLE not in (left, right)):
        return operator.eq
    if left.is_number and right.is_number:
        return lambda one, other: compare_doubles(float(one), float(other)) == 0  # type: ignore[arg-type]
    if left is Kind.STRING and right in _READ:
        return _read_left(right)
    if right is Kind.STRING and left.is_number:
        mirrored = _read_left(left)
        return lambda one, other: mirrored(other, one)
    if left is Kind.BOOLEAN and right is Kind.STRING:
        return _fail
    return _differ


def _read_left(kind: Kind) -> Callable[[Value, Value], bool]:
    read = _READ[kind]
    if kind is Kind.DOUBLE:
        return lambda text, number: compare_doubles(read(text), number) == 0  # type: ignore[arg-type]
    return lambda text, number: read(text) == number  # type: ignore[arg-type]


def _equal(node: syntax.Equal, names: dict[str, bytes]) -> Condition:
    left_kind, left = _value(node.left, names)
    right_kind, right = _value(node.right, names)
    same = _equality(left_kind, right_kind)

    if isinstance(node.left, syntax.Property) and isinstance(node.right, syntax.Constant):
        name, constant = node.left.name, node.right.value
        if right_kind is Kind.NULL:
            return lambda properties: name not in properties
        if right_kind is Kind.STRING:
            return lambda properties: None if (value := properties.get(name)) is None else value == constant
        return lambda properties: None if (value := properties.get(name)) is None else same(value, constant)

    def equal(properties: Properties) -> bool | None:
        one, other = left(properties), right(properties)
        if one is None:
            return True if other is None else None
        return False if other is None else same(one, other)

    return equal


def _relation(node: syntax.Relation, names: dict[str, bytes]) -> Condition:
    left_kind, left = _value(node.left, names)
    right_kind, right = _value(node.right, names)
    if isinstance(node.left, syntax.Property) and right_kind.is_number:
        return _property_to_number(node.left.name, node.operator, right_kind, right({}))
    if isinstance(node.right, syntax.Property) and left_kind.is_number:
        return _property_to_number(node.right.name, _MIRRORED[node.operator], left_kind, left({}))
    holds = _OPERATORS[node.operator]

    def relation(properties: Properties) -> bool | None:
        one = left(properties)
        if one is None:
            return None
        other = right(properties)
        if other is None:
            return None
        if isinstance(one, str) and isinstance(other, str):
            return holds(compare_doubles(to_double(one), to_double(other)), 0)
        if isinstance(one, int) and isinstance(other, int):
            return holds(one, other)
        return holds(compare_doubles(float(one), float(other)), 0)

    return relation


def _property_to_number(name: str, sign: str, kind: Kind, number: Value) -> Condition:
    """`property sign number`, the most frequent comparison."""
    holds = _OPERATORS[sign]
    read = _READ[kind]
    if kind is Kind.DOUBLE:
        return lambda properties: (
            None if (text := properties.get(name)) is None else holds(compare_doubles(to_double(text), number), 0)  # type: ignore[arg-type]
        )
    return lambda properties: (
        None if (text := properties.get(name)) is None else holds(read(text), number)  # type: ignore[arg-type]
    )


def _search(node: syntax.TextSearch, names: dict[str, bytes]) -> Condition:
    kind, evaluate = _value(node.operand, names)
    text, negated = node.text, node.negated
    if kind is not Kind.STRING or not text:
        # the operand counts only if it fails
        return lambda properties: (evaluate(properties) if text else None, False)[1]
    if node.operator == "CONTAINS":

        def search(properties: Properties) -> bool | None:
            value = evaluate(properties)
            return False if value is None else (text in value) is not negated  # type: ignore[operator]
    elif node.operator == "STARTSWITH":

        def search(properties: Properties) -> bool | None:
            value = evaluate(properties)
            return False if value is None else value.startswith(text) is not negated  # type: ignore[union-attr]
    else:

        def search(properties: Properties) -> bool | None:
            value = evaluate(properties)
            return False if value is None else value.endswith(text) is not negated  # type: ignore[union-attr]

    return search


def _in(node: syntax.In, names: dict[str, bytes]) -> Condition:
    name, texts, negated = _name(node.operand, names), frozenset(node.texts), node.negated
    return lambda properties: None if (value := properties.get(name)) is None else (value in texts) is not negated
