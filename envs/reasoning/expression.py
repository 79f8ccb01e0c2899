"""A small safe parser for arithmetic: recursive descent over text, exact evaluation over fractions.

Nothing is ever handed to `eval`, sympy or `ast`. Length, nesting and the size of numbers are bounded before
any arithmetic, so that neither `((((...` nor `9**9**9` can cost time or memory.

    sum     := product (("+" | "-") product)*
    product := sign (("*" | "/") sign)*
    sign    := "-" sign | power                only with `algebra`
    power   := atom ("**" sign)?               only with `algebra`
    atom    := number | "(" sum ")" | name | name "(" sum ")"
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

MAX_LENGTH = 1000
MAX_DEPTH = 40
MAX_ATOMS = 200  # numbers and names: what recursion over a tree can be sure to stand

_TOKEN = re.compile(r"\s*(?:((?:0|[1-9]\d{0,11})(?:\.\d{1,12})?)(?![\d.])|([A-Za-z]+)|(\*\*|[-+*/()×÷−]))", re.ASCII)
_SAME = {"×": "*", "÷": "/", "−": "-"}


class ExpressionError(ValueError):
    """The text is no expression, or its value does not exist."""


@dataclass(frozen=True, slots=True)
class Node:
    """`op` is "number", "name", "call", "negative" or one of + - * / **."""

    op: str
    value: Fraction | None = None
    name: str = ""
    args: tuple[Node, ...] = ()


def parse(text: str, algebra: bool = False) -> Node:
    """The tree of an expression.

    Without `algebra`: unsigned whole numbers, + - * / and parentheses. With it: also decimals, names, calls
    of one argument, unary minus and `**`. Raises ExpressionError.
    """
    if len(text) > MAX_LENGTH:
        raise ExpressionError("too long")
    tokens = _tokens(text, algebra)
    parser = _Parser(tokens, algebra)
    tree = parser.sum(0)
    if parser.at != len(tokens):
        raise ExpressionError(f"unexpected {tokens[parser.at]!r}")
    return tree


def _tokens(text: str, algebra: bool) -> list[str]:
    tokens: list[str] = []
    at, end = 0, len(text.rstrip())
    atoms = 0
    while at < end:
        match = _TOKEN.match(text, at)
        if match is None:
            raise ExpressionError("not an expression")
        number, name, symbol = match.groups()
        if not algebra and (name or symbol == "**" or (number and "." in number)):
            raise ExpressionError("only whole numbers, + - * / and parentheses are allowed")
        atoms += symbol is None
        tokens.append(number or name or _SAME.get(symbol, symbol))
        at = match.end()
    if atoms > MAX_ATOMS:
        raise ExpressionError("too long")
    return tokens


class _Parser:
    def __init__(self, tokens: list[str], algebra: bool) -> None:
        self.tokens = tokens
        self.algebra = algebra
        self.at = 0

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self) -> str:
        self.at += 1
        return self.tokens[self.at - 1]

    def sum(self, depth: int) -> Node:
        return self._chain(("+", "-"), self.product, depth)

    def product(self, depth: int) -> Node:
        return self._chain(("*", "/"), self.sign if self.algebra else self.atom, depth)

    def _chain(self, operators: tuple[str, str], part: Callable[[int], Node], depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise ExpressionError("nested too deeply")
        node = part(depth)
        while self.peek() in operators:
            node = Node(self.take(), args=(node, part(depth)))
        return node

    def sign(self, depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise ExpressionError("nested too deeply")
        if self.peek() == "-":
            self.take()
            return Node("negative", args=(self.sign(depth + 1),))
        base = self.atom(depth)
        if self.peek() != "**":
            return base
        self.take()
        return Node("**", args=(base, self.sign(depth + 1)))

    def atom(self, depth: int) -> Node:
        token = self.peek()
        if token == "(":
            self.take()
            node = self.sum(depth + 1)
            if self.peek() != ")":
                raise ExpressionError("a parenthesis is not closed")
            self.take()
            return node
        if token[:1].isdigit():
            return Node("number", value=Fraction(self.take()))
        if token[:1].isalpha():
            name = self.take()
            if self.peek() == "(":
                return Node("call", name=name, args=(self.atom(depth),))
            return Node("name", name=name)
        raise ExpressionError(f"unexpected {token!r}" if token else "it breaks off")


def evaluate(node: Node) -> Fraction:
    """Exact value of a tree of numbers and + - * /. Raises ExpressionError on division by zero."""
    if node.op == "number":
        assert node.value is not None
        return node.value
    left, right = map(evaluate, node.args)
    if node.op == "+":
        return left + right
    if node.op == "-":
        return left - right
    if node.op == "*":
        return left * right
    if right == 0:
        raise ExpressionError("division by zero")
    return left / right


def literals(node: Node) -> list[Fraction]:
    """All numbers in a tree, left to right."""
    found: list[Fraction] = []
    stack = [node]
    while stack:
        top = stack.pop()
        if top.value is not None:
            found.append(top.value)
        stack.extend(reversed(top.args))
    return found
