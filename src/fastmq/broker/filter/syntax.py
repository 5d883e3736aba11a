"""The text of an SQL92 filter to a tree: RocketMQ's grammar (SelectorParser) and what it checks while it parses.

A filter is a condition over a message's properties: `n > 10 AND color IN ('red', 'blue')`. Not in it: LIKE, arithmetic,
functions. Words are case-insensitive, names of properties are not. Two things differ from RocketMQ's parser, which
stops at the first token that cannot go on and takes what it has until then: text behind the end of the condition is an
error, and a filter is bounded in length and depth.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from fastmq.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from lark import Lark, Token

MAX_LENGTH: Final = 16_384
"""Characters of a filter."""

MAX_DEPTH: Final = 200
"""Levels of a filter's tree. AND and OR of any number of conditions are one level."""

INT_MAX: Final = (1 << 31) - 1
LONG_MAX: Final = (1 << 63) - 1
DOUBLE_MIN: Final = 4.9e-324

Position = tuple[int, int]
"""Line and column, both from 1."""


class ExpressionError(UsageError):
    """A filter that cannot be used. The text says where and why."""

    def __init__(self, problem: str, at: Position) -> None:
        super().__init__(f"line {at[0]}, column {at[1]}: {problem}")
        self.line, self.column = at


class Kind(Enum):
    """The type that a value has in RocketMQ. It depends on the expression alone, never on the message."""

    STRING = "string"  # a property or a text in quotes
    INT = "int"
    LONG = "long"
    DOUBLE = "double"
    BOOLEAN = "boolean"
    NULL = "null"  # never a value, such as the negative of a text

    @property
    def is_number(self) -> bool:
        """Whether relational operators take it as a constant."""
        return self in (Kind.INT, Kind.LONG, Kind.DOUBLE)


@dataclass(frozen=True, slots=True)
class Node:
    """A part of a filter, with the place where it begins and the levels below it."""

    at: Position
    depth: int


@dataclass(frozen=True, slots=True)
class Constant(Node):
    """A literal. TRUE, FALSE and NULL are conditions as well."""

    kind: Kind
    value: str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Property(Node):
    """A property of the message: its text, or null if the message has none of that name."""

    name: str


@dataclass(frozen=True, slots=True)
class Negative(Node):
    """`- operand`: null unless the operand is a number."""

    operand: Node


@dataclass(frozen=True, slots=True)
class Not(Node):
    """`NOT operand`."""

    operand: Node


@dataclass(frozen=True, slots=True)
class Cast(Node):
    """A property where a condition is asked for. No property is boolean: FALSE, or null without the property."""

    operand: Property


@dataclass(frozen=True, slots=True)
class And(Node):
    """All of them."""

    operands: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Or(Node):
    """Any of them."""

    operands: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Equal(Node):
    """`left = right`, and `left IS NULL` with NULL on the right."""

    left: Node
    right: Node


@dataclass(frozen=True, slots=True)
class Relation(Node):
    """`left operator right`, operator one of > >= < <=."""

    operator: str
    left: Node
    right: Node


@dataclass(frozen=True, slots=True)
class TextSearch(Node):
    """`operand [NOT] operator 'text'`, operator one of CONTAINS STARTSWITH ENDSWITH."""

    operator: str
    operand: Node
    text: str
    negated: bool


@dataclass(frozen=True, slots=True)
class In(Node):
    """`property [NOT] IN ('a', 'b')`."""

    operand: Property
    texts: tuple[str, ...]
    negated: bool


CONDITIONS: Final = (Not, Cast, And, Or, Equal, Relation, TextSearch, In)

_GRAMMAR: Final = r"""
?start: disjunction
?disjunction: conjunction (OR conjunction)*
?conjunction: equality (AND equality)*
?equality: comparison
    | equality EQUAL comparison                                             -> equal
    | equality UNEQUAL comparison                                           -> unequal
    | equality IS NULL                                                      -> is_null
    | equality IS NOT NULL                                                  -> is_not_null
?comparison: unary
    | comparison (GREATER | GREATER_EQUAL | LESS | LESS_EQUAL) unary        -> relation
    | comparison (CONTAINS | STARTSWITH | ENDSWITH) STRING                  -> search
    | comparison NOT (CONTAINS | STARTSWITH | ENDSWITH) STRING              -> not_search
    | comparison BETWEEN unary AND unary                                    -> between
    | comparison NOT BETWEEN unary AND unary                                -> not_between
    | comparison IN OPEN STRING (COMMA STRING)* CLOSE                       -> in_list
    | comparison NOT IN OPEN STRING (COMMA STRING)* CLOSE                   -> not_in_list
?unary: primary
    | PLUS unary                                                            -> positive
    | MINUS unary                                                           -> negative
    | NOT unary                                                             -> negation
?primary: STRING -> string | DECIMAL -> decimal | FLOAT -> floating
    | TRUE -> true | FALSE -> false | NULL -> null | NAME -> name
    | OPEN disjunction CLOSE                                                -> parenthesis

NOT: "not"i
AND: "and"i
OR: "or"i
BETWEEN: "between"i
IN: "in"i
TRUE: "true"i
FALSE: "false"i
NULL: "null"i
IS: "is"i
CONTAINS: "contains"i
STARTSWITH: "startswith"i
ENDSWITH: "endswith"i
EQUAL: "="
UNEQUAL: "<>"
GREATER: ">"
GREATER_EQUAL: ">="
LESS: "<"
LESS_EQUAL: "<="
PLUS: "+"
MINUS: "-"
OPEN: "("
CLOSE: ")"
COMMA: ","
STRING: /'(''|[^'])*'/
FLOAT.2: /[0-9]+\.[0-9]*(e[+-]?[0-9]+)?|\.[0-9]+(e[+-]?[0-9]+)?|[0-9]+e[+-]?[0-9]+/i
DECIMAL: /0l?|[1-9][0-9]*l?/i
NAME: /[a-z_$][a-z0-9_$]*/i
%ignore /[ \t\n\r\f]+/
%ignore /--[^\n\r]*(\r\n|\n|\r)/
%ignore /\/\*[^*]*\*(\*|[^*\/][^*]*\*)*\//
"""

_WORDS: Final = {
    "EQUAL": '"="', "UNEQUAL": '"<>"', "GREATER": '">"', "GREATER_EQUAL": '">="', "LESS": '"<"', "LESS_EQUAL": '"<="',
    "PLUS": '"+"', "MINUS": '"-"', "OPEN": '"("', "CLOSE": '")"', "COMMA": '","', "STRING": "a text in quotes",
    "FLOAT": "a number", "DECIMAL": "a number", "NAME": "a property", "$END": "the end",
}  # fmt: skip


def parse(text: str) -> Node:
    """The tree of a filter: a condition. ExpressionError if it is none, or one that RocketMQ does not compile."""
    from lark.exceptions import UnexpectedCharacters, UnexpectedToken  # noqa: PLC0415  (late: see the package)

    if len(text) > MAX_LENGTH:
        raise ExpressionError(f"longer than {MAX_LENGTH} characters", _place_of(text, MAX_LENGTH))
    try:
        tree: Any = _parser().parse(text)
    except UnexpectedToken as error:
        token = error.token
        if token.type == "$END":
            raise ExpressionError(f"the filter ends where {_listed(error.expected)}", _end_of(text)) from None
        found = f"unexpected {_quoted(str(token))} where {_listed(error.expected)}"
        raise ExpressionError(found, (token.line or 1, token.column or 1)) from None
    except UnexpectedCharacters as error:
        found = "a text without closing quote" if error.char == "'" else f"{_quoted(error.char)} is no part of a filter"
        raise ExpressionError(found, (error.line, error.column)) from None
    return _condition(tree)


@cache
def _parser() -> Lark:
    """The parser, made for the first filter: it costs some ten milliseconds and a few megabytes."""
    from lark import Lark  # noqa: PLC0415  (late: see the package)

    return Lark(_GRAMMAR, parser="lalr", lexer="basic", transformer=_Builder())


def _place_of(text: str, index: int) -> Position:
    before = text[:index]
    return before.count("\n") + 1, index - (before.rfind("\n") + 1) + 1


def _end_of(text: str) -> Position:
    return _place_of(text, len(text))


def _quoted(text: str) -> str:
    return f'"{text if len(text) <= 40 else text[:37] + "..."}"'


def _listed(expected: Iterable[str]) -> str:
    words = sorted({_WORDS.get(name, name) for name in expected})
    return f"{', '.join(words[:-1])} or {words[-1]} can stand" if len(words) > 1 else f"only {words[0]} can stand"


def _depth(*parts: Node) -> int:
    depth = 1 + max(part.depth for part in parts)
    if depth > MAX_DEPTH:
        raise ExpressionError(f"nested deeper than {MAX_DEPTH} levels", parts[0].at)
    return depth


def _is_condition(node: Node) -> bool:
    return isinstance(node, CONDITIONS) or (isinstance(node, Constant) and node.kind in (Kind.BOOLEAN, Kind.NULL))


def _condition(node: Node) -> Node:
    """The node where a condition is asked for."""
    if _is_condition(node):
        return node
    if isinstance(node, Property):
        return Cast(node.at, _depth(node), node)
    raise ExpressionError("a condition is needed here, this is a value", node.at)


def _check_relational(node: Node) -> None:
    """Only numbers and properties have an order."""
    if isinstance(node, Constant):
        if not node.kind.is_number:
            raise ExpressionError(f"{_described(node)} has no order: only numbers and properties do", node.at)
    elif _is_condition(node):
        raise ExpressionError("a condition has no order: only numbers and properties do", node.at)


def _check_equality(left: Node, right: Node) -> None:
    for node in (left, right):
        if isinstance(node, Constant) and node.kind is Kind.NULL:
            raise ExpressionError("nothing equals NULL: use IS NULL or IS NOT NULL", node.at)
    if (
        isinstance(left, Constant)
        and isinstance(right, Constant)
        and left.kind is Kind.BOOLEAN
        and right.kind is not Kind.BOOLEAN
    ):
        raise ExpressionError(f"{_described(left)} cannot be compared with {_described(right)}", left.at)


def _described(node: Constant) -> str:
    if node.kind is Kind.STRING:
        return f"'{node.value}'"
    if node.kind in (Kind.BOOLEAN, Kind.NULL):
        return "NULL" if node.value is None else str(node.value).upper()
    return str(node.value)


def _position(token: Token) -> Position:
    return token.line or 1, token.column or 1


def _text_of(token: Token) -> str:
    return str(token)[1:-1].replace("''", "'")


class _Builder:
    """What the parser calls for each rule, with the parts of it; the tree grows from its leaves."""

    def _joined(self, parts: list[Any], make: Callable[[Position, int, tuple[Node, ...]], Node]) -> Node:
        operands = tuple(_condition(part) for part in parts if isinstance(part, Node))
        return make(operands[0].at, _depth(*operands), operands)

    def disjunction(self, parts: list[Any]) -> Node:
        return self._joined(parts, Or)

    def conjunction(self, parts: list[Any]) -> Node:
        return self._joined(parts, And)

    def equal(self, parts: list[Any]) -> Node:
        left, _, right = parts
        _check_equality(left, right)
        return Equal(left.at, _depth(left, right), left, right)

    def unequal(self, parts: list[Any]) -> Node:
        equal = self.equal(parts)
        return Not(equal.at, _depth(equal), equal)

    def is_null(self, parts: list[Any]) -> Node:
        left, _, word = parts[0], parts[1], parts[-1]
        return Equal(left.at, _depth(left), left, Constant(_position(word), 0, Kind.NULL, None))

    def is_not_null(self, parts: list[Any]) -> Node:
        equal = self.is_null(parts)
        return Not(equal.at, _depth(equal), equal)

    def relation(self, parts: list[Any]) -> Node:
        left, operator, right = parts
        return self._relation(left, str(operator), right)

    def _relation(self, left: Node, operator: str, right: Node) -> Node:
        _check_relational(left)
        _check_relational(right)
        return Relation(left.at, _depth(left, right), operator, left, right)

    def search(self, parts: list[Any]) -> Node:
        operand, operator, text = parts[0], parts[-2], parts[-1]
        return TextSearch(operand.at, _depth(operand), str(operator).upper(), operand, _text_of(text), len(parts) == 4)

    not_search = search

    def between(self, parts: list[Any]) -> Node:
        value, _, low, _, high = parts
        if isinstance(low, Constant) and isinstance(high, Constant):
            self._check_bounds(low, high)
        both = self._relation(value, ">=", low), self._relation(value, "<=", high)
        return And(value.at, _depth(*both), both)

    def _check_bounds(self, low: Constant, high: Constant) -> None:
        for bound in (low, high):
            _check_relational(bound)
        if low.value > high.value:  # type: ignore[operator]  # both are numbers
            raise ExpressionError(f"{low.value} is greater than {high.value}: nothing lies between", low.at)

    def not_between(self, parts: list[Any]) -> Node:
        value, _, _, low, _, high = parts
        both = self._relation(value, "<", low), self._relation(value, ">", high)
        return Or(value.at, _depth(*both), both)

    def in_list(self, parts: list[Any]) -> Node:
        operand = parts[0]
        if not isinstance(operand, Property):
            raise ExpressionError("IN needs a property on its left", operand.at)
        texts = tuple(_text_of(part) for part in parts[1:] if part.type == "STRING")
        return In(operand.at, _depth(operand), operand, texts, parts[1].type == "NOT")

    not_in_list = in_list

    def positive(self, parts: list[Any]) -> Node:
        node: Node = parts[1]
        return node

    def negative(self, parts: list[Any]) -> Node:
        return Negative(_position(parts[0]), _depth(parts[1]), parts[1])

    def negation(self, parts: list[Any]) -> Node:
        operand = _condition(parts[1])
        return Not(_position(parts[0]), _depth(operand), operand)

    def parenthesis(self, parts: list[Any]) -> Node:
        node: Node = parts[1]
        return node

    def string(self, parts: list[Any]) -> Node:
        return Constant(_position(parts[0]), 0, Kind.STRING, _text_of(parts[0]))

    def decimal(self, parts: list[Any]) -> Node:
        number = int(str(parts[0]).rstrip("lL"))
        if number > LONG_MAX:
            raise ExpressionError(f"{number} is greater than {LONG_MAX}", _position(parts[0]))
        return Constant(_position(parts[0]), 0, Kind.INT if number <= INT_MAX else Kind.LONG, number)

    def floating(self, parts: list[Any]) -> Node:
        number = float(str(parts[0]))
        if number == float("inf"):
            raise ExpressionError(f"{parts[0]} is too large for a double", _position(parts[0]))
        if number < DOUBLE_MIN:
            raise ExpressionError(f"{parts[0]} is less than {DOUBLE_MIN}; write 0 for zero", _position(parts[0]))
        return Constant(_position(parts[0]), 0, Kind.DOUBLE, number)

    def true(self, parts: list[Any]) -> Node:
        return Constant(_position(parts[0]), 0, Kind.BOOLEAN, True)

    def false(self, parts: list[Any]) -> Node:
        return Constant(_position(parts[0]), 0, Kind.BOOLEAN, False)

    def null(self, parts: list[Any]) -> Node:
        return Constant(_position(parts[0]), 0, Kind.NULL, None)

    def name(self, parts: list[Any]) -> Node:
        return Property(_position(parts[0]), 0, str(parts[0]))
