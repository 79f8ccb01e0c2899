"""Checks of algebraic answers that hand no text from a model to a computer algebra system."""

from __future__ import annotations

import cmath
from collections.abc import Callable
from fractions import Fraction

from envs.reasoning.expression import ExpressionError, Node, parse

MAX_DEGREE = 60
MAX_TERMS = 400

Dual = tuple[complex, complex]  # value and derivative
Polynomial = dict[tuple[tuple[str, int], ...], Fraction]  # ((name, exponent), ...) -> coefficient

# Generic points: an identity between elementary functions that holds at all of them holds wherever both sides
# exist.
_POINTS = (0.7137 + 0.2391j, 1.3719 - 0.4127j, 0.2913 + 0.8171j, 2.1331 + 0.1173j, 0.5303 - 0.6611j)
_TOLERANCE = 1e-9


def is_antiderivative(answer: str, integrand: str, variable: str) -> bool:
    """Whether the derivative of `answer` in `variable` is `integrand`; `C` stands for any constant.

    Decided by automatic differentiation at complex points, to a relative 1e-9. Text that is no expression is
    wrong.
    """
    try:
        solution, expected = parse(answer, algebra=True), parse(integrand, algebra=True)
        for point in _POINTS:
            names = {variable: (point, 1 + 0j), "C": (1.2345 + 0j, 0j)}
            slope, wanted = _differentiate(solution, names)[1], _differentiate(expected, names)[0]
            if not abs(slope - wanted) <= _TOLERANCE * max(1.0, abs(wanted)):
                return False
    except (ExpressionError, ArithmeticError, ValueError):  # not an expression, or without a value somewhere
        return False
    return True


_FUNCTIONS: dict[str, Callable[[complex], tuple[complex, complex]]] = {
    "sin": lambda u: (cmath.sin(u), cmath.cos(u)),
    "cos": lambda u: (cmath.cos(u), -cmath.sin(u)),
    "tan": lambda u: (cmath.tan(u), 1 / cmath.cos(u) ** 2),
    "exp": lambda u: (cmath.exp(u), cmath.exp(u)),
    "log": lambda u: (cmath.log(u), 1 / u),
    "ln": lambda u: (cmath.log(u), 1 / u),
    "sqrt": lambda u: (cmath.sqrt(u), 0.5 / cmath.sqrt(u)),
    "asin": lambda u: (cmath.asin(u), 1 / cmath.sqrt(1 - u * u)),
    "acos": lambda u: (cmath.acos(u), -1 / cmath.sqrt(1 - u * u)),
    "atan": lambda u: (cmath.atan(u), 1 / (1 + u * u)),
    "sinh": lambda u: (cmath.sinh(u), cmath.cosh(u)),
    "cosh": lambda u: (cmath.cosh(u), cmath.sinh(u)),
    "tanh": lambda u: (cmath.tanh(u), 1 / cmath.cosh(u) ** 2),
}
_CONSTANTS: dict[str, Dual] = {"pi": (cmath.pi + 0j, 0j), "E": (cmath.e + 0j, 0j)}


def _differentiate(node: Node, names: dict[str, Dual]) -> Dual:
    if node.op == "number":
        assert node.value is not None
        return complex(node.value), 0j
    if node.op == "name":
        dual = names.get(node.name) or _CONSTANTS.get(node.name)
        if dual is None:
            raise ExpressionError(f"unknown name {node.name}")
        return dual
    (u, du), *rest = (_differentiate(arg, names) for arg in node.args)
    if node.op == "negative":
        return -u, -du
    if node.op == "call":
        if node.name not in _FUNCTIONS:
            raise ExpressionError(f"unknown function {node.name}")
        value, slope = _FUNCTIONS[node.name](u)
        return value, slope * du
    v, dv = rest[0]
    if node.op == "+":
        return u + v, du + dv
    if node.op == "-":
        return u - v, du - dv
    if node.op == "*":
        return u * v, du * v + u * dv
    if node.op == "/":
        return u / v, (du * v - u * dv) / (v * v)
    power = u**v
    slope = v * power / u * du
    return power, slope if dv == 0 else slope + power * cmath.log(u) * dv


def same_polynomial(answer: str, gold: str) -> bool:
    """Whether `answer` is the polynomial `gold` multiplied out: a sum of terms, without parentheses."""
    if "(" in answer:
        return False
    try:
        return _expand(parse(answer, algebra=True)) == _expand(parse(gold, algebra=True))
    except ExpressionError:
        return False


def _expand(node: Node) -> Polynomial:
    if node.op == "number":
        assert node.value is not None
        return {(): node.value} if node.value else {}
    if node.op == "name":
        return {((node.name, 1),): Fraction(1)}
    if node.op == "negative":
        return {term: -factor for term, factor in _expand(node.args[0]).items()}
    if node.op == "call":
        raise ExpressionError("no polynomial")
    left, right = map(_expand, node.args)
    if node.op in "+-":
        total = dict(left)
        for term, factor in right.items():
            total[term] = total.get(term, Fraction(0)) + (factor if node.op == "+" else -factor)
        return {term: factor for term, factor in total.items() if factor}
    if node.op == "*":
        return _multiply(left, right)
    if right.keys() != {()}:
        raise ExpressionError("no polynomial")
    constant = right[()]
    if node.op == "/":
        return {term: factor / constant for term, factor in left.items()}
    if constant.denominator != 1 or not 0 <= constant <= MAX_DEGREE:
        raise ExpressionError("no polynomial")
    power: Polynomial = {(): Fraction(1)}
    for _ in range(constant.numerator):
        power = _multiply(power, left)
    return power


def _multiply(left: Polynomial, right: Polynomial) -> Polynomial:
    product: Polynomial = {}
    for term_a, a in left.items():
        for term_b, b in right.items():
            exponents = dict(term_a)
            for name, exponent in term_b:
                exponents[name] = exponents.get(name, 0) + exponent
            if sum(exponents.values()) > MAX_DEGREE or (a * b).numerator.bit_length() > 4096:
                raise ExpressionError("too large")
            term = tuple(sorted(exponents.items()))
            product[term] = product.get(term, Fraction(0)) + a * b
    if len(product) > MAX_TERMS:
        raise ExpressionError("too large")
    return {term: factor for term, factor in product.items() if factor}
