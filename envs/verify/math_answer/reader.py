r"""Reads a mathematical answer into a small tree; does not know which answer is right.

Nothing is ever evaluated as code. Numbers are exact (decimals are fractions), and what would grow beyond all bounds,
such as `9^{9^9}`, is refused before it is computed.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import sympy
from sympy import Expr, Integer, Rational, Symbol

from envs.verify.math_answer.tokens import Token, TooLarge, Unreadable, tokenize, words_of
from envs.verify.math_answer.tree import (
    Collection,
    Matrix,
    Node,
    Relation,
    Text,
    Tuple,
    Union,
    as_number,
    bounded,
    finite,
    quotient,
    raised,
    scaled,
    small,
)
from envs.verify.math_answer.units import CURRENCIES, DEGREE, PERCENT, base_unit, read_unit

MAX_DEPTH = 40


def read(text: str) -> Node:
    """Reads an answer.

    Raises:
        Unreadable: It is not one.
    """
    if time := _TIME.fullmatch(words_of(text)):
        return Text(f"{time[1]} {time[2]}m")
    tokens = tokenize(text)
    if not tokens:
        raise Unreadable("nothing")
    if all(token.kind == "text" for token in tokens):
        return Text(words_of(text))
    if not any(token.value in ("\\pm", "\\mp") for token in tokens):
        return _Parser(tokens, 1).answer()
    both = [_Parser(list(tokens), sign).answer() for sign in (1, -1)]
    return Collection(
        tuple(item for node in both for item in (node.items if isinstance(node, Collection) else [node]))
    )


_TIME = re.compile(r"([0-9]{1,2}(?: [0-5][0-9])?) ([ap]) ?m")  # of the day, as `words_of` gives it
_RELATIONS = ("=", "<", ">", "<=", ">=", "!=")
_BRACKETS = {"(": ")", "[": "]", "{": "}", "\\{": "\\}", "\\langle": "\\rangle"}
_OPERANDS = {"(", "[", "{", "\\{", "\\langle", "|", "\\lfloor", "\\lceil", "\\dollar", "\\euro", "\\pound"}
_CONSTANTS = {"\\pi": sympy.pi, "\\infty": sympy.oo, "\\emptyset": Collection(())}
_END = Token("end", "")
_FUNCTIONS: dict[str, Callable[..., Expr]] = {
    "sin": sympy.sin, "cos": sympy.cos, "tan": sympy.tan, "cot": sympy.cot, "sec": sympy.sec, "csc": sympy.csc,
    "arcsin": sympy.asin, "arccos": sympy.acos, "arctan": sympy.atan, "sinh": sympy.sinh, "cosh": sympy.cosh,
    "tanh": sympy.tanh, "ln": sympy.log, "log": sympy.log, "lg": sympy.log, "exp": sympy.exp,
}  # fmt: skip
_INVERSES = {"sin": sympy.asin, "cos": sympy.acos, "tan": sympy.atan}
_GREEK = {
    "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu", "nu", "xi",
    "rho", "sigma", "tau", "phi", "varphi", "chi", "psi", "omega", "ell",
    "Gamma", "Delta", "Theta", "Lambda", "Xi", "Sigma", "Phi", "Psi", "Omega",
}  # fmt: skip


class _Parser:
    """Recursive descent over the tokens; `sign` is what plus-minus stands for in this reading."""

    def __init__(self, tokens: list[Token], sign: int):
        self.tokens = tokens
        self.sign = sign
        self.position = 0
        self.depth = 0

    # The tokens

    @property
    def next(self) -> Token:
        return self.tokens[self.position] if self.position < len(self.tokens) else _END

    def take(self, *values: str) -> str | None:
        """The next token's spelling if it is one of these; then it is used up."""
        _, value = self.next
        if value in values and self.next.kind not in ("text", "end"):
            self.position += 1
            return value
        return None

    def expect(self, value: str) -> None:
        if not self.take(value):
            raise Unreadable(f"{value!r} is missing")

    # Lists and relations

    def answer(self) -> Node:
        items = self.items()
        if self.next is not _END:
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
        sides, operators = [self.ratio()], []
        while operator := self.take(*_RELATIONS, "\\in", "\\approx"):
            operators.append(operator)
            sides.append(self.ratio())
        if operators and operators[-1] == "\\approx":  # `\sqrt{2} \approx 1.41` says \sqrt{2}
            operators.pop()
            _check_rounded(sides[-2], sides.pop())
        if not operators:
            return sides[0]
        if operators == ["\\in"] and isinstance(sides[0], Symbol):
            return sides[1]
        if operators == ["="] and _is_name(sides[0]) and not isinstance(sides[1], Expr):
            return sides[1]  # `P = (1, 2)`, `(x, y) = (1, 2)`
        if not all(isinstance(side, Expr) for side in sides) or "\\in" in operators:
            raise Unreadable("a relation between what is not numbers")
        return Relation(tuple(sides), tuple(operators))

    def ratio(self) -> Node:
        parts = [self.union()]
        while self.take(":"):
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

    def starts_operand(self) -> bool:
        kind, value = self.next
        if kind in ("number", "letter"):
            return True
        if kind == "command":
            return (
                value in _OPERANDS
                or value in _CONSTANTS
                or value[1:] in _FUNCTIONS
                or value[1:] in _GREEK
                or value in ("\\frac", "\\sqrt", "\\binom")
            )
        return value in ("(", "{")

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
            if kind == "number":
                raise Unreadable("two numbers side by side")
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
        while mark := self.take("^", "!", "%", "_", "\\circ", *CURRENCIES):
            value = as_number(node)
            if mark in CURRENCIES:
                node = value * CURRENCIES[mark]
            elif mark == "%":
                node = value * PERCENT
            elif mark == "!":
                node = bounded(sympy.factorial(small(value)))
            elif mark == "_":
                node = self.subscript(value)
            elif mark == "\\circ":  # `60\degree`; of letters it is their composition
                if not value.is_number:
                    raise Unreadable("a composition")
                node = value * DEGREE
            elif self.take("\\circ"):
                node = value * DEGREE
            else:
                node = raised(value, as_number(self.argument(whole=True)))
                if self.next.value == "^":
                    raise Unreadable("two exponents")
        return node

    def subscript(self, value: Expr) -> Expr:
        """A base (`52_8` is 52 in that unit, not 42) or an index."""
        index = as_number(self.argument(whole=True))
        if value.is_Integer and index.is_Integer and 2 <= index <= 10:
            return value * base_unit(int(index))
        if isinstance(value, Symbol) and (index.is_Integer or isinstance(index, Symbol)):
            return Symbol(f"{value.name}_{index}")
        raise Unreadable("a subscript")

    def argument(self, whole: bool = False) -> Node:
        """What a command applies to: a group in braces or one digit, as in LaTeX, or a `whole` number (`x^10`)."""
        kind, value = self.next
        if kind == "number" and not whole:
            digit, rest = value[0], value[1:]
            if digit == "." or "." in rest or "e" in rest.lower():
                raise Unreadable("an argument without braces")
            digits = [digit, rest] if rest else [digit]
            self.tokens[self.position : self.position + 1] = [Token("number", text) for text in digits]
        if kind == "symbol" and value == "-" and whole:
            self.position += 1
            return -as_number(self.operand())
        return self.operand()

    def operand(self) -> Node:
        kind, value = self.next
        self.position += 1
        if kind == "number":
            return self.number(value)
        if kind == "letter":
            return self.letter(value)
        if kind == "symbol" and value in ("(", "[", "{"):
            return self.bracketed(value)
        if kind == "symbol" and value == "|":
            return sympy.Abs(self.enclosed("|"))
        if kind == "symbol" and value == "-":  # "3 * (-5)" without the brackets
            return -as_number(self.factor())
        if kind == "command":
            return self.command(value)
        raise Unreadable(f"{value[:20]!r} does not belong there")

    def letter(self, name: str) -> Expr:
        ahead = self.tokens[self.position : self.position + 4]
        if [token.value for token in ahead[::2]] == ["(", ")"] and ahead[-1].value == "=":  # f(x) = ...
            self.position += 3
            return Symbol(f"{name}({ahead[1].value})")
        return {"e": sympy.E, "i": sympy.I}.get(name, Symbol(name))

    def number(self, digits: str) -> Expr:
        if len(digits) > 1000 or re.search(r"[eE][+-]?[0-9]{4}", digits):
            raise TooLarge("a number too long")
        if self.take("\\overline"):  # 0.1\overline{6} = (16 - 1) / 90
            period = "".join(value for _, value in self.raw_group())
            head, _, decimals = digits.partition(".")
            if not period.isdigit() or not (digits + period).replace(".", "").isdigit():
                raise Unreadable("an overline")
            whole = int(head + decimals + period) - int(head + decimals)
            return Rational(whole, 10 ** len(decimals) * (10 ** len(period) - 1))
        if digits[0] == "0" and len(digits) > 1 and digits[1].isdigit():
            raise Unreadable("a leading zero")
        return Rational(digits)

    def raw_group(self) -> list[Token]:
        self.expect("{")
        start = self.position
        while self.next.value != "}" and self.next is not _END:
            self.position += 1
        tokens = self.tokens[start : self.position]
        self.expect("}")
        return tokens

    def bracketed(self, opening: str) -> Node:
        if opening == "\\{" and self.take("\\}"):
            return Collection(())
        items = self.items()
        closing = self.take(*_BRACKETS.values())
        if opening in ("(", "[") and closing in (")", "]"):
            if len(items) > 1:
                return Tuple(opening, closing, tuple(items))
        elif closing != _BRACKETS[opening]:
            raise Unreadable("brackets that do not match")
        if opening == "\\{":
            return Collection(tuple(items))
        if opening == "\\langle":
            return Tuple("(", ")", tuple(items))
        if len(items) > 1:
            return Collection(tuple(items))
        if closing != _BRACKETS[opening]:
            raise Unreadable("brackets that do not match")
        return items[0]

    def enclosed(self, closing: str) -> Expr:
        value = as_number(self.sum())
        self.expect(closing)
        return value

    def command(self, name: str) -> Node:
        if name in _CONSTANTS:
            return _CONSTANTS[name]
        if name in CURRENCIES:
            return as_number(self.factor()) * CURRENCIES[name]
        if name in ("\\{", "\\langle"):
            return self.bracketed(name)
        if name[1:] in _GREEK:
            return Symbol(name[1:])
        if name[1:] in _FUNCTIONS:
            return self.function(name[1:])
        match name:
            case "\\frac":
                return quotient(self.argument(), self.argument())
            case "\\binom":
                return bounded(sympy.binomial(small(self.argument()), small(self.argument())))
            case "\\sqrt":
                return self.root()
            case "\\lfloor":
                return sympy.floor(self.enclosed("\\rfloor"))
            case "\\lceil":
                return sympy.ceiling(self.enclosed("\\rceil"))
            case "\\begin":
                return self.matrix()
            case "\\mathbb" if [value for _, value in self.raw_group()] == ["R"]:
                return Tuple("(", ")", (-sympy.oo, sympy.oo))
        raise Unreadable(f"{name[:20]} is not known")

    def root(self) -> Expr:
        degree = Integer(2)
        if self.take("["):
            degree = as_number(self.sum())
            self.expect("]")
            if not degree.is_Integer or not 1 <= degree <= 100:
                raise Unreadable("a root of that degree")
        radicand = as_number(self.argument())
        if degree % 2 and radicand.is_negative:
            return -sympy.root(-radicand, degree)
        return sympy.root(radicand, degree)

    def function(self, name: str) -> Expr:
        function, power = _FUNCTIONS[name], None
        base = Integer(10) if name == "lg" else None
        if name in ("log", "lg") and self.take("_"):
            base = as_number(self.argument(whole=True))
        if self.take("^"):
            power = as_number(self.argument(whole=True))
            if power == -1 and name in _INVERSES:
                function, power = _INVERSES[name], None
        if self.next.value in ("(", "{"):
            value = as_number(self.operand())
        else:
            value = as_number(self.factor())
            while self.starts_operand() and self.next.value[1:] not in _FUNCTIONS and self.next.value != "(":
                value *= as_number(self.factor())
        value = value.subs(DEGREE, sympy.pi / 180)
        if function is sympy.exp:
            return raised(sympy.E, value)
        if function is sympy.log and value.is_zero:
            raise Unreadable("the logarithm of zero")
        result = function(value) if base is None else sympy.log(value) / sympy.log(base)
        return result if power is None else raised(result, power)

    def matrix(self) -> Node:
        kind = "".join(value for _, value in self.raw_group())
        if not kind.endswith(("matrix", "array")) or kind.lower() == "vmatrix":  # that one is a determinant
            raise Unreadable("an environment that is not a matrix")
        if kind == "array":
            self.raw_group()
        rows: list[list[Node]] = [[]]
        while not self.take("\\end"):
            if self.take("\\\\"):
                rows.append([])
            elif not self.take("&"):
                rows[-1].append(self.sum())
        self.raw_group()
        filled = [tuple(row) for row in rows if row]
        if len({len(row) for row in filled}) != 1:
            raise Unreadable("a matrix with ragged rows")
        return Matrix(tuple(filled))


def _is_name(node: Node) -> bool:
    """Whether this is a letter, or a tuple of letters in the order of the alphabet."""
    names = node.items if isinstance(node, Tuple) else (node,)
    return all(isinstance(name, Symbol) for name in names) and list(names) == sorted(set(names), key=str)


def _check_rounded(exact: Node, rounded: Node) -> None:
    """Refuses what is no rounded value: two answers instead of one."""
    x, y = as_number(exact).evalf(20), as_number(rounded).evalf(20)
    if not (x.is_Float and y.is_Float and 100 * abs(x - y) <= abs(x)):
        raise Unreadable("an approximation")
