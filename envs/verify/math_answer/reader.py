r"""Reads a mathematical answer into a small tree; does not know which answer is right.

Nothing is ever evaluated as code. Numbers are exact (decimals are fractions), and what would grow beyond all bounds,
such as `9^{9^9}`, is refused before it is computed.
"""

from __future__ import annotations

import re

from sympy import Expr, Integer, Rational, Symbol

from envs.verify.math_answer.approximations import approximation
from envs.verify.math_answer.operands import NUMBERS, OperandReader
from envs.verify.math_answer.tokens import Token, Unreadable, tokenize, words_of
from envs.verify.math_answer.tree import (
    Collection,
    Large,
    Named,
    Node,
    Relation,
    Text,
    Tuple,
    Union,
    as_number,
    bounded,
    factorial,
    finite,
    quotient,
    raised,
    scaled,
)
from envs.verify.math_answer.units import (
    CURRENCIES,
    DEGREE,
    DEGREES,
    PERCENT,
    Unit,
    based,
    read_unit,
)
from envs.verify.math_answer.values import equal

MAX_DEPTH = 40
_ALL, _NO = NUMBERS["\\mathbb{R}"], Collection(())
# What is said in words and in signs.
NAMED: dict[str, Node] = {
    **dict.fromkeys(("all real numbers", "all reals", "the real numbers", "real numbers", "the set of all real numbers",
                     "every real number", "any real number", "the set of real numbers", "all real x", "reals"), _ALL),
    **dict.fromkeys(("no solution", "no solutions", "no real solution", "no real solutions", "none", "empty set",
                     "the empty set", "there is no solution", "there are no solutions", "no such number", "empty",
                     "has no solution", "it has no solution", "no roots", "no real roots"), _NO),
    **dict.fromkeys(("does not exist", "dne", "undefined", "not defined", "it does not exist", "nonexistent",
                     "the limit does not exist", "limit does not exist", "is undefined", "it is undefined",
                     "is not defined"), Text("does not exist")),
    **{f"{all_of}{name}": Text(name) for all_of in ("", "all ", "the ", "all the ", "the set of ", "the set of all ")
       for name in ("integers", "natural numbers", "rational numbers", "complex numbers")},
    "all rationals": Text("rational numbers"), "all integer": Text("integers"),
    "true": Text("yes"), "false": Text("no"),
    "yes": Text("yes"), "no": Text("no"),
}  # fmt: skip
_TIME = re.compile(r"0?([0-9]{1,2}(?: [0-5][0-9])?) ?([ap]) ?m")  # of the day, as `words_of` gives it
_SIGNS = re.compile(r"[-+*/^_=<>!|0-9]")
_ROUGHLY = ("approximately", "approx", "about", "roughly", "around")
_RELATIONS = ("=", "<", ">", "<=", ">=", "!=")


def read(text: str) -> Node:
    """Reads an answer.

    Raises:
        Unreadable: It is not one.
    """
    if time := _TIME.fullmatch(words_of(text)):
        return Text(f"{time[1]} {time[2]}m")
    if (words := words_of(text)) in NAMED and not _SIGNS.search(text):
        return NAMED[words]
    tokens = tokenize(text)
    if not tokens:
        raise Unreadable("nothing")
    if all(token.kind == "text" for token in tokens if token.value not in ("{", "}")):
        return Text(words)
    if not any(token.value in ("\\pm", "\\mp") for token in tokens):
        return _Reader(tokens, 1).answer()
    both = [_Reader(list(tokens), sign).answer() for sign in (1, -1)]
    return Collection(
        tuple(item for node in both for item in (node.items if isinstance(node, Collection) else [node]))
    )


class _Reader(OperandReader):
    """Recursive descent over the tokens; `sign` is what plus-minus stands for in this reading."""

    def __init__(self, tokens: list[Token], sign: int):
        super().__init__(tokens)
        self.sign = sign
        self.depth = 0

    # Lists and relations

    def answer(self) -> Node:
        items = self.items()
        if self.next.kind != "end":
            raise Unreadable(f"{self.next.value[:20]!r} does not belong there")
        return items[0] if len(items) == 1 else Collection(tuple(items))

    def items(self) -> list[Node]:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unreadable("too deep")
        items = [self.item()]
        while self.take(",", ";"):
            while self.take(","):  # "1, 2, and 3"
                pass
            items.append(self.item())
        self.depth -= 1
        return items

    def item(self) -> Node:
        starts = [self.roughly()]
        sides, operators = [self.ratio()], []
        while operator := self.take(*_RELATIONS, "\\in", "\\approx"):
            operators.append(operator)
            starts.append(self.position)
            sides.append(self.ratio())
        large = [isinstance(side, Expr) and side.has(Large) for side in sides]
        if any(large) and all(map(_has_no_name, sides)) and set(operators) & {"=", "\\approx", "\\in"}:
            if set(operators) != {"="} or any(side != sides[0] for side in sides):
                raise Unreadable("a number too large to be compared, which is no name")
            return sides[0]
        if operators and operators[-1] == "\\approx":
            return self.rounded(sides, operators, starts)
        if not operators and self.take("\\equiv"):
            return self.congruence(sides[0])
        if not operators:
            return sides[0]
        if operators == ["\\in"] and isinstance(sides[0], Symbol):
            return Named(sides[0].name, sides[1], is_member=True)
        if operators == ["="] and _is_name(sides[0]) and not isinstance(sides[1], Expr):
            return Named(_name(sides[0]), sides[1])  # `P = (1, 2)`, `(x, y) = (1, 2)`
        if not all(isinstance(side, Expr) for side in sides) or "\\in" in operators:
            raise Unreadable("a relation between what is not numbers")
        return Relation(tuple(sides), tuple(operators))

    def roughly(self) -> int:
        """Passes over "approximately" before a value; where that starts."""
        if self.next.kind == "text" and self.next.value.strip(" ,.:").lower() in _ROUGHLY:
            self.position += 1
        elif self.take("\\approx", "\\sim", "~") and self.next.kind == "end":
            raise Unreadable("an approximation of nothing")
        return self.position

    def rounded(self, sides: list[Node], operators: list[str], starts: list[int]) -> Node:
        r"""`x = \sqrt{2} \approx 1.41`, or parts of it."""
        named = (
            isinstance(sides[0], Symbol)
            and not isinstance(sides[0], Unit)
            and operators[0] in ("=", "\\approx")
        )
        if operators.count("\\approx") > 1 or set(operators) - {"=", "\\approx"}:
            raise Unreadable("several approximations")
        if named and len(sides) == 2:
            return Relation((as_number(sides[0]), as_number(sides[1])), ("=",))  # `x \\approx 1.41`
        values = [as_number(side) for side in sides[named:]]
        if len(values) > 2 and not all(map(equal, values[:-2], values[1:-1])):
            raise Unreadable("several values")
        decimal = [token.value for token in self.tokens[starts[-1] : self.position] if token.kind == "number"]
        before = self.tokens[starts[-2] : starts[-1] - 1]
        literal = any("." in token.value for token in before) and sum(t.kind != "text" for t in before) < 3
        if not decimal:
            raise Unreadable("an approximation without digits")
        node = approximation(values[-2], values[-1], decimal[0], literal)
        return Named(_name(sides[0]), node) if named else node

    def congruence(self, left: Node) -> Node:
        right = self.ratio()
        self.expect("\\pmod")
        modulus = self.operand()
        if not (isinstance(left, Symbol) and isinstance(right, Integer) and isinstance(modulus, Integer)):
            raise Unreadable("a congruence")
        if modulus < 1:
            raise Unreadable("a modulus below one")
        return Text(f"{left} is {right % modulus} modulo {modulus}")

    def ratio(self) -> Node:
        parts = [self.union()]
        while self.take(":"):
            if re.match(r"0[0-9]", self.next.value):
                raise Unreadable("a time of the day")
            parts.append(self.union())
        if len(parts) == 2:
            return quotient(*parts)
        return parts[0] if len(parts) == 1 else Tuple(":", ":", tuple(parts))

    def union(self) -> Node:
        parts = [self.sum()]
        while self.take("\\cup") or (isinstance(parts[-1], Tuple) and self.take("U")):
            parts.append(self.sum())
        return parts[0] if len(parts) == 1 else Union(tuple(parts))

    # Arithmetic

    def sum(self) -> Node:
        total = self.term(self.leading_sign())
        while self.next.value in ("+", "-", "\\pm") and self.next.kind != "text":
            sign = self.leading_sign()
            total = as_number(total) + as_number(self.term(sign))
        return finite(total)

    def leading_sign(self) -> int:
        match self.take("+", "-", "\\pm", "\\mp"):
            case "-":
                return -1
            case "\\pm":
                return self.sign
            case "\\mp":
                return -self.sign
        return 1

    def term(self, sign: int) -> Node:
        start = self.position
        product = self.factor()
        if sign < 0:
            product = scaled(product, Integer(-1))
        while True:
            if self.take("*"):
                product = bounded(as_number(product) * as_number(self.signed_factor()))
            elif self.take("/"):
                product = quotient(product, self.unit() if self.next.kind == "text" else self.signed_factor())
            elif self.next.kind == "text" and isinstance(product, Expr):
                product = product * self.unit()
            elif self.next.value == "\\begin" and isinstance(product, Expr):
                product = scaled(self.factor(), product)
            elif self.starts_operand() and isinstance(product, Expr):
                product = self.adjoin(product, start)
            else:
                return product

    def unit(self) -> Expr:
        unit = read_unit(self.next.value)
        if unit is None:
            raise Unreadable(f"{self.next.value[:20]!r} is no unit")
        self.position += 1
        return as_number(self.postfix(unit))

    def signed_factor(self) -> Node:
        sign = self.leading_sign()
        factor = self.factor()
        return factor if sign > 0 else -as_number(factor)

    def adjoin(self, product: Expr, start: int) -> Expr:
        """What stands next to a product without a sign: a factor, or the fraction of a mixed number."""
        kind, value = self.next
        after_number = self.tokens[self.position - 1].kind == "number"
        after_integer = after_number and self.position == start + 1 and product.is_Integer
        if after_number and value == "\\frac" and self.tokens[self.position - 2].value in ("*", "/"):
            raise Unreadable("a mixed number as a factor")
        if kind == "number" and self.tokens[self.position - 1].value == "!":
            return bounded(product * as_number(self.factor()))
        if kind == "number" and not after_integer:
            raise Unreadable("two numbers side by side")
        if kind == "number" or (value == "\\frac" and after_integer):
            factor = as_number(self.factor())
            if kind == "number":
                self.expect("/")
                factor /= as_number(self.factor())
            if isinstance(factor, Rational) and 0 < factor < 1:
                return product - factor if product.is_negative else product + factor
            if kind == "number" or (isinstance(factor, Rational) and factor >= 1):
                raise Unreadable("two numbers side by side")  # 1 9/5 is neither 9/5 nor 14/5
            return bounded(product * factor)
        return bounded(product * as_number(self.factor()))

    def factor(self) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unreadable("too deep")
        node = self.postfix(self.operand())
        self.depth -= 1
        return node

    def postfix(self, node: Node) -> Node:
        while mark := self.take("^", "!", "%", "_", "\\circ", "'", *CURRENCIES):
            value = as_number(node)
            if mark == "'":  # f' is not f
                if not isinstance(value, Symbol) or isinstance(value, Unit):
                    raise Unreadable("a prime")
                node = Symbol(f"{value.name}'")
            elif mark in CURRENCIES:
                node = value * CURRENCIES[mark]
            elif mark == "%":
                node = value * PERCENT
            elif mark == "!":
                if self.next.value == "!" and not value.is_number:
                    raise Unreadable("a double factorial")
                node = factorial(value)
            elif mark == "_":
                node = self.subscript(value)
            elif mark == "\\circ":  # `60\degree`; of letters it is their composition
                if not value.is_number:
                    raise Unreadable("a composition")
                node = value * self.degrees()
            elif self.take("\\circ"):
                node = value * self.degrees()
            else:
                node = raised(value, as_number(self.argument(whole=True)))
                if self.next.value == "^":
                    raise Unreadable("two exponents")
        return node

    def degrees(self) -> Expr:
        kind, value = self.next
        if kind in ("letter", "text") and value.strip() in DEGREES:
            self.position += 1
            return DEGREES[value.strip()]
        return DEGREE

    def subscript(self, value: Expr) -> Expr:
        """A base (`52_8` is 52 in that unit, not 42) or an index."""
        index = as_number(self.argument(whole=True))
        if value.is_Integer and index.is_Integer and 2 <= index <= 36:
            if any(int(digit) >= index for digit in str(abs(value))):
                raise Unreadable("a digit that the base has not")
            return based(int(value), int(index))
        if isinstance(value, Symbol) and (index.is_Integer or isinstance(index, Symbol)):
            return Symbol(f"{value.name}_{index}")
        raise Unreadable("a subscript")


def _is_name(node: Node) -> bool:
    """Whether this is a letter, or a tuple of letters in the order of the alphabet."""
    names = node.items if isinstance(node, Tuple) else (node,)
    return all(isinstance(name, Symbol) for name in names) and list(names) == sorted(set(names), key=str)


def _has_no_name(side: Node) -> bool:
    """Whether a side of an equation has no letter that it may be the value of."""
    return not isinstance(side, Expr) or all(isinstance(s, Unit | Large) for s in side.free_symbols)


def _name(node: Node) -> str:
    names = node.items if isinstance(node, Tuple) else (node,)
    return ",".join(str(name) for name in names)
