"""Reads a mathematical answer, in LaTeX or as people type it, into a small tree; does not know which one is right.

Nothing is ever evaluated as code. Numbers are exact (decimals are fractions), and what would grow beyond all bounds, such as
`9^{9^9}`, is refused before it is computed. The tree has sympy expressions for leaves; above them stand

- `Collection`: several answers without order, as a set in braces or a list (`1, -2`, `1 \\pm \\sqrt{2}`, `x = 1 or x = 2`),
- `Tuple`: ordered, in brackets: points, vectors, and intervals, which are pairs,
- `Union` of intervals or sets, `Matrix`, `Relation` (`x = 5`, `1 < x \\le 3`), and `Text` (`\\text{Monday}`).

A unit is a factor: `10 cm` is 10 times the symbol `cm`, and so are per cent, degrees, currencies, and the base of `52_8`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import sympy
from sympy import Expr, Integer, Rational, Symbol

MAX_DEPTH = 40
MAX_BITS = 10_000  # of the integers in a result
MAX_ARGUMENT = 10_000  # of a factorial, a binomial coefficient, an exponent


class Unreadable(ValueError):
    """The text is no mathematical answer that this module knows."""


class Unit(Symbol):
    """A unit of measurement, as a factor."""


PERCENT, DEGREE, DOLLAR = Unit("percent"), Unit("degree"), Unit("dollar")


@dataclass(frozen=True)
class Text:
    """Words, in lower case without punctuation."""

    words: str


@dataclass(frozen=True)
class Collection:
    """Answers in any order."""

    items: tuple[Node, ...]


@dataclass(frozen=True)
class Tuple:
    """Items in order, and the brackets around them."""

    opening: str
    closing: str
    items: tuple[Node, ...]


@dataclass(frozen=True)
class Union:
    """Parts joined by the sign of union."""

    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Matrix:
    """Rows of entries."""

    rows: tuple[tuple[Node, ...], ...]


@dataclass(frozen=True)
class Relation:
    """Sides with one of `=`, `<`, `<=`, `>`, `>=`, `!=` between each two."""

    sides: tuple[Expr, ...]
    operators: tuple[str, ...]


Node = Expr | Text | Collection | Tuple | Union | Matrix | Relation


def read(text: str) -> Node:
    """Reads an answer.

    Raises:
        Unreadable: It is not one.
    """
    tokens = _tokens(_clean(text))
    if not tokens:
        raise Unreadable("nothing")
    if all(kind == "text" for kind, _ in tokens):
        return Text(words_of(" ".join(value for _, value in tokens)))
    if not any(value == "\\pm" for _, value in tokens):
        return _Parser(tokens, 1).answer()
    both = [_Parser(tokens, sign).answer() for sign in (1, -1)]
    return Collection(
        tuple(item for node in both for item in (node.items if isinstance(node, Collection) else [node]))
    )


def words_of(text: str) -> str:
    """A text without LaTeX's wrappers, case and punctuation: what two text answers are compared by."""
    text = re.sub(r"\\(?:text|textbf|textit|textrm|mbox|mathrm|mathbf|operatorname)\b|\\.", " ", _clean(text))
    return " ".join(re.findall(r"[^\W_]+", text.lower()))


# --- from text to tokens ---------------------------------------------------------------------------------------------

_CHARACTERS = str.maketrans(
    {
        "−": "-", "–": "-", "×": "\\times ", "·": "\\cdot ", "⋅": "\\cdot ", "÷": "\\div ", "π": "\\pi ", "∞": "\\infty ",
        "√": "\\sqrt ", "°": "^\\circ ", "≤": "\\le ", "≥": "\\ge ", "≠": "\\ne ", "±": "\\pm ", "∪": "\\cup ", "∈": "\\in ",
        "²": "^2 ", "³": "^3 ", "θ": "\\theta ", "€": "\\euro ", "£": "\\pound ",
        "\u00a0": " ", "\u2009": " ", "\u202f": " ", "~": " ",
    }
)  # fmt: skip
_PREFIX = re.compile(
    r"^\s*(?:(?:so|thus|hence|therefore),?\s+)?(?:the\s+|my\s+)?(?:final\s+)?answer\s*(?:is\b\s*:?|:|=)\s*", re.IGNORECASE
)  # fmt: skip
_THOUSANDS = re.compile(r"(?<=[0-9])(?:\{,\}|,\\!|\\,|\\ |\\;)\s*(?=[0-9]{3}(?![0-9]))")
_DROPPED = re.compile(
    r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|textstyle|limits|quad|qquad|boxed|fbox|rm|bf|it)(?![A-Za-z])"
    r"|(?<!\\)\\[!,;:> \[\]()]"
)  # fmt: skip
_TOKEN = re.compile(
    r"(?P<number>(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][+-]?[0-9]+(?![A-Za-z0-9]))?)"
    r"|(?P<command>\\[A-Za-z]+|\\.)|(?P<word>[A-Za-z]+)|(?P<symbol><=|>=|!=|\S)",
    re.DOTALL,
)
_TEXT_COMMANDS = {
    "\\text",
    "\\mbox",
    "\\textbf",
    "\\textit",
    "\\textrm",
    "\\mathrm",
    "\\operatorname",
    "\\hbox",
}
_FONT_COMMANDS = {"\\mathbf", "\\mathit", "\\mathcal", "\\boldsymbol", "\\mathsf", "\\vec"}
_SPELLINGS = {
    "\\dfrac": "\\frac", "\\tfrac": "\\frac", "\\cfrac": "\\frac", "\\cdot": "*", "\\times": "*", "\\ast": "*",
    "\\div": "/", "\\leq": "<=", "\\le": "<=", "\\leqslant": "<=", "\\geq": ">=", "\\ge": ">=", "\\geqslant": ">=",
    "\\ne": "!=", "\\neq": "!=", "\\lt": "<", "\\gt": ">", "\\dbinom": "\\binom", "\\tbinom": "\\binom",
    "\\lvert": "|", "\\rvert": "|", "\\vert": "|", "\\degree": "\\circ", "\\mid": "|", "\\lbrace": "\\{", "\\rbrace": "\\}",
    "\\varnothing": "\\emptyset", "\\%": "%", "\\colon": ":",
}  # fmt: skip
_FUNCTIONS: dict[str, Callable[..., Expr]] = {
    "sin": sympy.sin, "cos": sympy.cos, "tan": sympy.tan, "cot": sympy.cot, "sec": sympy.sec, "csc": sympy.csc,
    "arcsin": sympy.asin, "arccos": sympy.acos, "arctan": sympy.atan, "sinh": sympy.sinh, "cosh": sympy.cosh,
    "tanh": sympy.tanh, "ln": sympy.log, "log": sympy.log, "lg": sympy.log, "exp": sympy.exp,
}  # fmt: skip
_INVERSES = {"sin": sympy.asin, "cos": sympy.acos, "tan": sympy.atan}
_GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau phi varphi chi psi omega "
    "Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega ell"
).split()
_WORD_COMMANDS = {
    **{name: f"\\{name}" for name in (*_FUNCTIONS, "sqrt", "pi", "theta", "alpha", "beta", "infty")},
    "asin": "\\arcsin", "acos": "\\arccos", "atan": "\\arctan", "infinity": "\\infty", "inf": "\\infty", "oo": "\\infty",
    "percent": "%",
}  # fmt: skip

Token = tuple[str, str]  # kind ("number", "command", "symbol", "letter", "text", "separator") and spelling


def _clean(text: str) -> str:
    text = text.translate(_CHARACTERS).strip().strip("*").rstrip(". \t\r\n")
    text = _PREFIX.sub("", text)
    bare_dollars = re.findall(r"(?<!\\)\$", text)
    if len(bare_dollars) % 2 == 0:  # the marks of mathematics, not money
        text = re.sub(r"(?<!\\)\$", " ", text)
    text = re.sub(r"(?<!\\)\\?\$", r" \\dollar ", text)
    text = text.replace("\\\\%", "%").rstrip(". \t\r\n")
    text = _DROPPED.sub(" ", _THOUSANDS.sub(",", text))
    return re.sub(
        r"(?<![0-9,.])([0-9]{1,3})((?: [0-9]{3})+)(?![0-9])", lambda m: m[0].replace(" ", ","), text
    )


def _tokens(text: str) -> list[Token]:
    """Cuts a cleaned text up; words that stand together become one token of text."""
    tokens: list[Token] = []
    position, depth = 0, 0
    while match := _TOKEN.search(text, position):
        position = match.end()
        kind, value = str(match.lastgroup), match[0]
        if kind == "number":
            # Outside brackets a comma before exactly three digits groups thousands; inside, it separates.
            if depth == 0 and (
                group := re.compile(r"(?<![0-9.])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)?").match(
                    text, match.start()
                )
            ):
                position, value = group.end(), group[0].replace(",", "")
            tokens.append((kind, value))
        elif value in _TEXT_COMMANDS or value in _FONT_COMMANDS:
            content, position = _group(text, position)
            if value in _TEXT_COMMANDS and re.search(r"[^\W\d_]{2}|^\s*\W*[^\W\d_]\W*\s*$", content):
                _add_words(tokens, content)
            else:
                tokens += _tokens(content)
        elif kind == "word":
            tokens += _word(value, tokens)
        else:
            value = _SPELLINGS.get(value, value)
            depth += (value in ("(", "[", "\\{", "\\langle")) - (value in (")", "]", "\\}", "\\rangle"))
            tokens.append(("command" if value[0] == "\\" else "symbol", value))
    return tokens


def _group(text: str, position: int) -> tuple[str, int]:
    """The content of the braces at `position`, and where they end."""
    start = re.compile(r"\s*\{").match(text, position)
    if not start:
        raise Unreadable("a command of text without braces")
    depth, end = 1, start.end()
    while depth:
        brace = re.compile(r"[{}]").search(text, end)
        if not brace:
            raise Unreadable("unbalanced braces")
        depth += 1 if brace[0] == "{" else -1
        end = brace.end()
    return text[start.end() : end - 1], end


def _word(word: str, before: list[Token]) -> list[Token]:
    """A word as a function, a separator, a unit, a product of letters, or text."""
    if word.lower() in ("and", "or"):
        return [("separator", ",")]
    if command := _WORD_COMMANDS.get(word) or _WORD_COMMANDS.get(word.lower() if len(word) > 2 else ""):
        return [("command" if command[0] == "\\" else "symbol", command)]
    after_number = bool(before) and before[-1][0] in ("number", "text")
    if len(word) == 1 and not (before and before[-1][0] == "text"):
        return [("letter", word)]
    if len(word) <= 3 and not (after_number and word in UNITS) and not (before and before[-1][0] == "text"):
        return [("letter", letter) for letter in word] if len(word) < 3 or before else [("text", word)]
    _add_words(before, word)
    return []


def _add_words(tokens: list[Token], words: str) -> None:
    if re.fullmatch(r"[\s,]*(?:and|or)[\s,]*", words):
        tokens.append(("separator", ","))
    elif tokens and tokens[-1][0] == "text":
        tokens[-1] = ("text", f"{tokens[-1][1]} {words}")
    else:
        tokens.append(("text", words))


# --- units -----------------------------------------------------------------------------------------------------------

_UNIT_NAMES = {
    "cm": "centimeter centimetre", "m": "meter metre", "km": "kilometer kilometre", "mm": "millimeter millimetre",
    "in": "inch inche", "ft": "foot feet", "yd": "yard", "mi": "mile", "kg": "kilogram kilo", "g": "gram", "mg": "milligram",
    "lb": "lbs pound", "oz": "ounce", "s": "sec second", "min": "minute", "h": "hr hour", "L": "l liter litre", "mL": "ml milliliter",
    "dollar": "usd buck", "cent": "¢", "degree": "deg", "percent": "percentage pct", "unit": "",
}  # fmt: skip
UNITS = {alias: Unit(name) for name, aliases in _UNIT_NAMES.items() for alias in (name, *aliases.split())} | {
    "mph": Unit("mi") / Unit("h"), "cc": Unit("cm") ** 3,
}  # fmt: skip
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
# Words that change how much it is, or take it back: no units.
_NOT_UNITS = set(
    "thousand million billion trillion hundred dozen score half halves third thirds quarter quarters tenth tenths hundredth "
    "hundredths thousandth thousandths squared cubed plus minus times over divided by factorial not no point twice double "
    "triple less more than but is are was wait maybe perhaps if mod modulo to power of choose root pi zero one two three four "
    "five six seven eight nine ten eleven twelve twenty thirty forty fifty sixty seventy eighty ninety nor either neither "
    "actually instead wrong correct false true unknown about approximately around nearly almost equals equal fold pair pairs "
    "negative positive minutes' inverse reciprocal e".split()
)


def _unit(words: str) -> Expr:
    """What the words after a number measure: `square feet`, `miles per hour`, `red apples`."""
    top, *below = re.split(r"\bper\b|/", words.strip(" \t\r\n.()"))
    unit = _simple_unit(top)
    for part in below:
        unit /= _simple_unit(part)
    return unit


def _simple_unit(words: str) -> Expr:
    names = re.findall(r"[^\W\d_]+|¢", words)
    if not names or len(names) > 4 or not _NOT_UNITS.isdisjoint(name.lower() for name in names):
        raise Unreadable(f"{words[:40]!r} is no unit")
    power = 1
    if names[0].lower() in _POWERS and len(names) > 1:
        power = _POWERS[names.pop(0).lower()]
    name = " ".join(names)
    known = UNITS.get(name) or UNITS.get(name.lower()) or UNITS.get(name.lower().removesuffix("s"))
    return (known or Unit(name.lower().removesuffix("s"))) ** power


# --- from tokens to the tree -----------------------------------------------------------------------------------------

_RELATIONS = ("=", "<", ">", "<=", ">=", "!=")
_CLOSING = {"(": ")", "[": "]", "{": "}", "\\{": "\\}", "\\langle": "\\rangle"}
_OPERANDS = {"(", "[", "{", "\\{", "\\langle", "|", "\\lfloor", "\\lceil", "\\dollar", "\\euro", "\\pound"}
_CONSTANTS = {"\\pi": sympy.pi, "\\infty": sympy.oo, "\\emptyset": Collection(())}
_CURRENCIES = {"\\dollar": DOLLAR, "\\euro": Unit("euro"), "\\pound": Unit("pound")}
_END: Token = ("end", "")


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
        if value in values and self.next[0] not in ("text", "end"):
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
            raise Unreadable(f"{self.next[1][:20]!r} does not belong there")
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
        sides, operators = [self.union()], []
        while operator := self.take(*_RELATIONS, "\\in"):
            operators.append(operator)
            sides.append(self.union())
        if not operators:
            return sides[0]
        if operators == ["\\in"] and isinstance(sides[0], Symbol):
            return sides[1]
        if not all(isinstance(side, Expr) for side in sides) or "\\in" in operators:
            raise Unreadable("a relation between what is not numbers")
        return Relation(tuple(sides), tuple(operators))

    def union(self) -> Node:
        parts = [self.sum()]
        while self.take("\\cup") or (isinstance(parts[-1], Tuple) and self.take("U")):
            parts.append(self.sum())
        return parts[0] if len(parts) == 1 else Union(tuple(parts))

    # Arithmetic

    def sum(self) -> Node:
        total = self.term(self.leading_sign())
        while self.next[1] in ("+", "-", "\\pm") and self.next[0] != "text":
            sign = self.leading_sign()
            total = _number(total) + _number(self.term(sign))
        return _finite(total)

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
        product = self.factor()
        if sign < 0:
            product = -_number(product)
        while True:
            if self.take("*"):
                product = _bounded(_number(product) * _number(self.signed_factor()))
            elif self.take("/", ":"):
                divisor = _number(self.signed_factor())
                if divisor.is_zero:
                    raise Unreadable("a division by zero")
                product = _bounded(_number(product) / divisor)
            elif self.next[0] == "text" and isinstance(product, Expr):
                unit = _unit(self.next[1])
                self.position += 1
                product = product * self.postfix(unit)
            elif self.starts_operand() and isinstance(product, Expr):
                product = self.adjoin(product)
            else:
                return product

    def signed_factor(self) -> Node:
        sign = self.leading_sign()
        factor = self.factor()
        return factor if sign > 0 else -_number(factor)

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

    def adjoin(self, product: Expr) -> Expr:
        """What stands next to a product without a sign: a factor, or the fraction of a mixed number."""
        kind, value = self.next
        after_integer = self.tokens[self.position - 1][0] == "number" and abs(product).is_Integer
        if kind == "number" and not after_integer:
            raise Unreadable("two numbers side by side")
        if kind == "number" or (value == "\\frac" and after_integer):
            factor = _number(self.factor())
            if kind == "number":
                self.expect("/")
                factor /= _number(self.factor())
            if isinstance(factor, Rational) and 0 < factor < 1:
                return product - factor if product.is_negative else product + factor
            if kind == "number":
                raise Unreadable("two numbers side by side")
            return _bounded(product * factor)
        return _bounded(product * _number(self.factor()))

    def factor(self) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unreadable("too deep")
        node = self.postfix(self.operand())
        self.depth -= 1
        return node

    def postfix(self, node: Node) -> Node:
        while mark := self.take("^", "!", "%", "_", *_CURRENCIES):
            value = _number(node)
            if mark in _CURRENCIES:
                node = value * _CURRENCIES[mark]
            elif mark == "%":
                node = value * PERCENT
            elif mark == "!":
                node = _bounded(sympy.factorial(_small(value)))
            elif mark == "_":
                node = self.subscript(value)
            elif self.take("\\circ") or (self.tokens[self.position :][:3] == _CIRCLE and self.skip(3)):
                node = value * DEGREE
            else:
                node = _power(value, _number(self.argument(whole=True)))
        return node

    def skip(self, count: int) -> bool:
        self.position += count
        return True

    def subscript(self, value: Expr) -> Expr:
        """A base (`52_8` is 52 in that unit, not 42) or an index."""
        index = _number(self.argument(whole=True))
        if value.is_Integer and index.is_Integer:
            return value * Unit(f"base {index}")
        if isinstance(value, Symbol) and (index.is_Integer or isinstance(index, Symbol)):
            return Symbol(f"{value.name}_{index}")
        raise Unreadable("a subscript")

    def argument(self, whole: bool = False) -> Node:
        """What a command applies to: a group in braces or one character, in LaTeX; for `x^10` and the like all of 10."""
        kind, value = self.next
        if kind == "number" and not whole:
            digit, rest = value[0], value[1:]
            if digit == "." or "." in rest or "e" in rest.lower():
                raise Unreadable("an argument without braces")
            self.tokens[self.position : self.position + 1] = [("number", digit)] + [("number", rest)] * bool(
                rest
            )
        if kind == "symbol" and value == "-" and whole:
            self.position += 1
            return -_number(self.operand())
        return self.operand()

    def operand(self) -> Node:
        kind, value = self.next
        self.position += 1
        if kind == "number":
            return self.number(value)
        if kind == "letter":
            return {"e": sympy.E, "i": sympy.I}.get(value, Symbol(value))
        if kind == "symbol" and value in ("(", "[", "{"):
            return self.bracketed(value)
        if kind == "symbol" and value == "|":
            return sympy.Abs(self.enclosed("|"))
        if kind == "symbol" and value == "-":  # "3 * (-5)" without the brackets
            return -_number(self.factor())
        if kind == "command":
            return self.command(value)
        raise Unreadable(f"{value[:20]!r} does not belong there")

    def number(self, digits: str) -> Expr:
        if len(digits) > 1000 or re.search(r"[eE][+-]?[0-9]{4}", digits):
            raise Unreadable("a number too long")
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
        while self.next[1] != "}" and self.next is not _END:
            self.position += 1
        tokens = self.tokens[start : self.position]
        self.expect("}")
        return tokens

    def bracketed(self, opening: str) -> Node:
        if opening == "\\{" and self.take("\\}"):
            return Collection(())
        items = self.items()
        closing = self.take(*_CLOSING.values())
        if opening in ("(", "[") and closing in (")", "]"):
            if len(items) > 1:
                return Tuple(opening, closing, tuple(items))
        elif closing != _CLOSING[opening]:
            raise Unreadable("brackets that do not match")
        if opening == "\\{":
            return Collection(tuple(items))
        if opening == "\\langle":
            return Tuple("(", ")", tuple(items))
        if len(items) > 1:
            return Collection(tuple(items))
        if closing != _CLOSING[opening]:
            raise Unreadable("brackets that do not match")
        return items[0]

    def enclosed(self, closing: str) -> Expr:
        value = _number(self.sum())
        self.expect(closing)
        return value

    def command(self, name: str) -> Node:
        if name in _CONSTANTS:
            return _CONSTANTS[name]
        if name in _CURRENCIES:
            return _number(self.factor()) * _CURRENCIES[name]
        if name in ("\\{", "\\langle"):
            return self.bracketed(name)
        if name[1:] in _GREEK:
            return Symbol(name[1:])
        if name[1:] in _FUNCTIONS:
            return self.function(name[1:])
        match name:
            case "\\frac":
                top, bottom = _number(self.argument()), _number(self.argument())
                if bottom.is_zero:
                    raise Unreadable("a division by zero")
                return top / bottom
            case "\\binom":
                return _bounded(sympy.binomial(_small(self.argument()), _small(self.argument())))
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
            degree = _number(self.sum())
            self.expect("]")
            if not degree.is_Integer or not 1 <= degree <= 100:
                raise Unreadable("a root of that degree")
        radicand = _number(self.argument())
        if degree % 2 and radicand.is_negative:
            return -sympy.root(-radicand, degree)
        return sympy.root(radicand, degree)

    def function(self, name: str) -> Expr:
        function, base, power = _FUNCTIONS[name], None, None
        if name in ("log", "lg"):
            base = (
                _number(self.argument(whole=True))
                if self.take("_")
                else Integer(10)
                if name == "lg"
                else None
            )
        if self.take("^"):
            power = _number(self.argument(whole=True))
            if power == -1 and name in _INVERSES:
                function, power = _INVERSES[name], None
        if self.next[1] in ("(", "{"):
            value = _number(self.operand())
        else:
            value = _number(self.factor())
            while self.starts_operand() and self.next[1][1:] not in _FUNCTIONS and self.next[1] != "(":
                value *= _number(self.factor())
        value = value.subs(DEGREE, sympy.pi / 180)
        if function is sympy.exp:
            return _power(sympy.E, value)
        if function is sympy.log and value.is_zero:
            raise Unreadable("the logarithm of zero")
        result = function(value) if base is None else sympy.log(value) / sympy.log(base)
        return result if power is None else _power(result, power)

    def matrix(self) -> Node:
        kind = "".join(value for _, value in self.raw_group())
        if not kind.endswith(("matrix", "array")):
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


_CIRCLE: list[Token] = [("symbol", "{"), ("command", "\\circ"), ("symbol", "}")]


def _number(node: Node) -> Expr:
    if not isinstance(node, Expr):
        raise Unreadable("arithmetic with what is not a number")
    return node


def _finite(node: Node) -> Node:
    if isinstance(node, Expr) and node.has(sympy.nan, sympy.zoo):
        raise Unreadable("an undefined value")
    return node


def _bounded(value: Expr) -> Expr:
    if isinstance(value, Rational) and max(abs(value.p), value.q).bit_length() > MAX_BITS:
        raise Unreadable("a number too large")
    return value


def _small(node: Node) -> Expr:
    value = _number(node)
    if not value.is_Integer or not 0 <= value <= 1000:
        raise Unreadable("not a small natural number")
    return value


def _power(base: Expr, exponent: Expr) -> Expr:
    """`base ** exponent`, unless that is undefined or would be too large to write down."""
    if base.is_zero and not exponent.is_positive:
        raise Unreadable("an undefined power")
    if exponent.is_number:
        size = abs(exponent.evalf(5))
        bits = max(abs(base.p), base.q).bit_length() if isinstance(base, Rational) else 2
        if not size.is_real or size > MAX_ARGUMENT or size * bits > MAX_BITS:
            raise Unreadable("a power too large")
    return base**exponent
