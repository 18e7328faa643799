r"""Cuts a mathematical answer, in LaTeX or as people type it, into tokens; knows no grammar.

Spellings are made one here: `\dfrac` and `\frac`, `×` and `\times` and `*`, `1{,}234` and `1,234`. Words become
functions (`sqrt`), separators (`and`, `or`), products of letters (`xy`), or, where they stand together, one text.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from envs.verify.math_answer.units import UNIT_WORDS, UNITS
from envs.verify.spelling import normalized


class Unreadable(ValueError):
    """The text is no mathematical answer that is known here."""


class TooLarge(Unreadable):
    """It is one, but its value would not fit into any memory."""


class Token(NamedTuple):
    """A piece of the text.

    Attributes:
        kind: "number", "letter", "command" (with its backslash), "symbol", "separator", "text", or "end".
        value: its one spelling.
    """

    kind: str
    value: str


_END = Token("end", "")


class Cursor:
    """A place in a list of tokens, which goes on as they are taken."""

    def __init__(self, tokens: list[Token]):
        self.tokens = tokens
        self.position = 0

    @property
    def next(self) -> Token:
        """The token to come; one of kind "end" after the last."""
        return self.tokens[self.position] if self.position < len(self.tokens) else _END

    def take(self, *values: str) -> str | None:
        """The next token's spelling if it is one of these; then it is used up."""
        _, value = self.next
        if value in values and self.next.kind not in ("text", "end"):
            self.position += 1
            return value
        return None

    def expect(self, value: str) -> None:
        """Takes this token, or raises `Unreadable`."""
        if not self.take(value):
            raise Unreadable(f"{value!r} is missing")

    def group(self) -> list[Token]:
        """The tokens up to a closing brace, which are used up with both braces."""
        self.expect("{")
        start = self.position
        while self.next.value != "}" and self.next is not _END:
            self.position += 1
        tokens = self.tokens[start : self.position]
        self.expect("}")
        return tokens


FUNCTIONS = (
    "sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh",
    "ln", "log", "lg", "exp",
)  # fmt: skip
OPENING = ("(", "[", "\\{", "\\langle")
CLOSING = (")", "]", "\\}", "\\rangle")
_BEFORE_UNITS = (")", "}", "/", "\\pi")

# The whole run of numbers: `2,3,125` groups nothing.
_GROUPED = re.compile(r"(?<![0-9.])(?<![0-9],)[0-9]{1,3}(?:,[0-9]{3})+(?!,?[0-9])(?:\.[0-9]+)?")
_PRIMES = re.compile(r"\^\s*\{?\s*((?:\\prime\s*)+)\}?")
# What people write in words or with a letter where a sign is meant.
_WRITTEN = (
    (re.compile(r"(?<=[0-9])\s*[xX]\s*(?=[0-9])"), r" \\times "),  # 3 x 10^8
    (re.compile(r"\\(?:operatorname|mathrm|text)\s*\{\s*(gcd|lcm)\s*\}"), r"\\\1 "),
    (re.compile(r"\bper\s+cent\b", re.IGNORECASE), "percent"),
    (re.compile(r"\b(?:US\s*(?=\\dollar)|USD\s*(?=[0-9.]))"), r" \\dollar "),
    (re.compile(r"\\dollar\s+\\dollar"), r"\\dollar"),
    (re.compile(r"\bEUR\s*(?=[0-9.])"), r"\\euro "),
    (re.compile(r"\bGBP\s*(?=[0-9.])"), r"\\pound "),
    (re.compile(r"\b(?:CNY|RMB|JPY)\s*(?=[0-9.])"), r"\\yen "),
    (re.compile(r"₹\s*|\b(?:Rs\.?|INR)\s*(?=[0-9.])"), r"\\rupee "),
    (re.compile(r"(?<=[0-9])\s*[元円圆]"), r"\\yen "),
    (re.compile(r"(?<=[0-9])(?:\s*\^\s*\{?\s*\\(?:text|mathrm|textrm)\s*\{\s*(?:st|nd|rd|th)\s*\}\s*\}?"
                r"|\s*\^\s*\{\s*(?:st|nd|rd|th)\s*\}|\\text\{\s*(?:st|nd|rd|th)\s*\}"
                r"|(?:st|nd|rd|th)(?![A-Za-z]))"), ""),
    (re.compile(r"\(\s*\\?(?:[bp]mod|mod)(?![A-Za-z])\s*(\w+|\{\s*\w+\s*\})\s*\)"), r"\\pmod \1"),
    (re.compile(r"\\(?:[bp]?mod)(?![A-Za-z])|\\(?:text|mathrm|operatorname)\{\s*mod\s*\}"), r"\\pmod "),
)  # fmt: skip
# The names of what an expression says: the inverse or the composition of functions, a derivative.
_NAME = re.compile(
    r"\s*(?:(?P<inverse>[A-Za-z])\s*\^\s*\{?\s*-\s*1\s*\}?\s*\(\s*(?P<of>[a-z])\s*\)"
    r"|\(?\s*(?P<outer>[A-Za-z])\s*\\circ\s*(?P<inner>[A-Za-z])\s*\)?\s*\(\s*(?P<at>[a-z])\s*\)"
    r"|(?:\\frac\s*\{\s*d\s*(?P<top>[a-z])\s*\}\s*\{\s*d\s*(?P<bottom>[a-z])\s*\}|d(?P<y>[a-z])\s*/\s*d(?P<x>[a-z])))"
    r"\s*(?==(?!=))"
)
_TOKEN = re.compile(
    r"(?P<number>(?:[0-9]+(?:\.[0-9]+|\.(?=\s*\\overline))?|\.[0-9]+)(?:[eE][+-]?[0-9]+(?![A-Za-z0-9]))?)"
    r"|(?P<command>\\[A-Za-z]+|\\.)|(?P<word>[A-Za-z]+)|(?P<symbol><=|>=|!=|\*\*|\S)",
    re.DOTALL,
)
_WORDS = re.compile(r"[^\w$\\]*+(?=[^\W\d_])(?:.*[^\W\d_]{2}|[^\W\d_]\W*\Z)", re.DOTALL)  # before any number
_RATE = re.compile(r"([A-Za-z]+)\s*/\s*([A-Za-z]+)(?![A-Za-z])")
_NEXT_LETTER = re.compile(r"\s+([A-Za-z0-9])(?![A-Za-z])")
_OPEN_BRACE, _BRACE = re.compile(r"\s*\{"), re.compile(r"[{}]")
_TEXT_COMMANDS = {
    f"\\{name}"
    for name in (
        "text",
        "textbf",
        "textit",
        "textrm",
        "textnormal",
        "textsf",
        "texttt",
        "textup",
        "textsc",
        "emph",
        "mbox",
        "hbox",
        "mathrm",
        "operatorname",
    )
}
_FONT_COMMANDS = {
    f"\\{name}" for name in ("mathbf", "mathit", "mathcal", "mathsf", "boldsymbol", "bm", "vec", "underline")
}
_SPELLINGS = {
    "\\dfrac": "\\frac", "\\tfrac": "\\frac", "\\cfrac": "\\frac", "\\dbinom": "\\binom", "\\tbinom": "\\binom",
    "\\cdot": "*", "\\times": "*", "\\ast": "*", "\\div": "/", "**": "^", "\\colon": ":", "\\%": "%",
    "\\leq": "<=", "\\le": "<=", "\\leqslant": "<=", "\\geq": ">=", "\\ge": ">=", "\\geqslant": ">=",
    "\\lt": "<", "\\gt": ">", "\\ne": "!=", "\\neq": "!=", "\\lvert": "|", "\\rvert": "|", "\\vert": "|", "\\mid": "|",
    "\\degree": "\\circ", "\\dots": "\\ldots", "\\cdots": "\\ldots", "\\dotsc": "\\ldots", "\\dotsb": "\\ldots",
    "\\to": "\\rightarrow", "\\land": "\\wedge", "\\lor": "\\vee", "\\smallsetminus": "\\setminus",
    "\\doteq": "=", "\\coloneqq": "=", "\\bullet": "*", "\\lVert": "\\|", "\\rVert": "\\|",
    "\\lbrace": "\\{", "\\rbrace": "\\}", "\\varnothing": "\\emptyset",
}  # fmt: skip
_WORD_COMMANDS = {
    **{name: f"\\{name}" for name in (*FUNCTIONS, "sqrt", "pi", "theta", "alpha", "beta", "infty", "gcd", "lcm")},
    "asin": "\\arcsin", "acos": "\\arccos", "atan": "\\arctan",
    "infinity": "\\infty", "inf": "\\infty", "oo": "\\infty", "percent": "%",
}  # fmt: skip


def tokenize(text: str) -> list[Token]:
    """The tokens of an answer.

    Raises:
        Unreadable: Its braces do not match.
    """
    return _tokens(_clean(text))


def listed(text: str) -> str:
    """A text whose thousands, such as `10,100`, are lists; only where their comma is bare can they be both."""
    return _GROUPED.sub(lambda match: match[0].replace(",", ", "), text)


def spelt(text: str) -> list[str]:
    r"""The tokens' spellings, without braces around one of them: where they are equal, two texts say the same.

    Raises:
        Unreadable: Its braces do not match.
    """
    values: list[str] = []
    for kind, value in tokenize(text):
        if kind == "text":
            values += re.findall(r"[^\W\d_]+|[0-9]+|[^\w\s]", value.lower())
        elif value == "}" and len(values) > 1 and values[-2] == "{":
            del values[-2]
        else:
            values.append(value)
    return values


def words_of(text: str) -> str:
    """A text without LaTeX's wrappers, case and punctuation: what two text answers are compared by."""
    wrappers = "|".join(command[1:] for command in sorted(_TEXT_COMMANDS | _FONT_COMMANDS))
    text = re.sub(rf"\\(?:{wrappers})\b|\\[^A-Za-z]", " ", normalized(text))
    return " ".join(re.findall(r"[^\W_]+", text.lower()))


def _clean(text: str) -> str:
    """What people write, in signs."""
    text = normalized(text)
    for pattern, sign in _WRITTEN:
        text = pattern.sub(sign, text)
    return _PRIMES.sub(lambda match: "'" * match[0].count("prime"), text)


def _tokens(text: str) -> list[Token]:
    tokens: list[Token] = []
    position = depth = 0
    if name := _NAME.match(text):
        position = name.end()
        tokens.append(Token("letter", _name(name)))
    while match := _TOKEN.search(text, position):
        position, kind, value = match.end(), match.lastgroup, match[0]
        if kind == "number":
            # Outside brackets a comma before exactly three digits groups thousands; inside, it separates.
            if depth == 0 and (group := _GROUPED.match(text, match.start())):
                position, value = group.end(), group[0].replace(",", "")
            tokens.append(Token(kind, value))
        elif value in _TEXT_COMMANDS or value in _FONT_COMMANDS:
            content, position = _argument(text, position)
            if value in _TEXT_COMMANDS and _is_letter(content, tokens, text[position:]):
                tokens.append(Token("letter", content.strip()))
            elif value in _TEXT_COMMANDS and _WORDS.match(content):
                _add_words(tokens, content)
            else:
                tokens += _tokens(content)
        elif value == "\\mathbb":
            content, position = _argument(text, position)
            tokens.append(Token("command", f"\\mathbb{{{content.strip()}}}"))
        elif kind == "word" and (rate := _rate(tokens, text, match.start())):
            position = rate.end()
            _add_words(tokens, rate[0])
        elif kind == "word":
            _add_word(tokens, value)
        else:
            value = _SPELLINGS.get(value, value)
            depth += (value in OPENING) - (value in CLOSING)
            tokens.append(Token("command" if value[0] == "\\" else "symbol", value))
    return tokens


def _name(name: re.Match[str]) -> str:
    inverse, of, outer, inner, at, top, bottom, y, x = name.groups()
    if inverse:
        return f"{inverse}^-1({of})"
    return f"{outer}.{inner}({at})" if outer else f"d{top or y}/d{bottom or x}"


def _is_letter(content: str, tokens: list[Token], rest: str) -> bool:
    r"""Whether upright words are one letter of a formula, as in `4-\mathrm{i}`: no unit, and not all there is."""
    letter = content.strip()
    kind, before = tokens[-1] if tokens else ("", "")
    if len(letter) != 1 or not letter.isalpha() or kind == "text" or not (tokens or rest.strip()):
        return False
    return not (letter in UNITS and (kind == "number" or before in _BEFORE_UNITS))


def _rate(tokens: list[Token], text: str, start: int) -> re.Match[str] | None:
    """The units at this place where one is divided by another: the km/h of `10 km/h`."""
    rate = _RATE.match(text, start)
    if not rate or not tokens or tokens[-1].kind != "number":
        return None
    apart = len(rate[1]) > 1 or text[start - 1].isspace()  # `2m/s` may be letters
    return rate if apart and rate[1] in UNIT_WORDS and rate[2] in UNIT_WORDS else None


def _argument(text: str, position: int) -> tuple[str, int]:
    """What a command of text or fonts applies to, and where that ends: braces, or the next letter."""
    letter = _NEXT_LETTER.match(text, position)
    return (letter[1], letter.end()) if letter else _braced(text, position)


def _braced(text: str, position: int) -> tuple[str, int]:
    """The content of the braces at `position`, and where they end."""
    start = _OPEN_BRACE.match(text, position)
    if not start:
        raise Unreadable("a command of text without braces")
    depth, end = 1, start.end()
    while depth:
        brace = _BRACE.search(text, end)
        if not brace:
            raise Unreadable("braces that do not match")
        depth += 1 if brace[0] == "{" else -1
        end = brace.end()
    return text[start.end() : end - 1], end


def _add_word(tokens: list[Token], word: str) -> None:
    """A word as a separator, a function, a product of letters, or text."""
    kind, before = tokens[-1] if tokens else ("", "")
    measures = len(word) > 1 and word.lower() in UNIT_WORDS and (kind == "number" or before in _BEFORE_UNITS)
    if word.lower() in ("and", "or"):
        tokens.append(Token("separator", ","))
    elif command := _WORD_COMMANDS.get(word.lower() if len(word) > 2 else word):
        tokens.append(Token("command" if command[0] == "\\" else "symbol", command))
    elif kind == "text" or len(word) > 3 or measures:
        _add_words(tokens, word)
    elif len(word) == 3 and not tokens:
        _add_words(tokens, word)  # a word such as "yes" rather than a product
    else:
        tokens.extend(Token("letter", letter) for letter in word)


def _add_words(tokens: list[Token], words: str) -> None:
    if re.fullmatch(r"[\s,]*(?:and|or)[\s,]*", words):
        tokens.append(Token("separator", ","))
    elif tokens and tokens[-1].kind == "text":
        tokens[-1] = Token("text", f"{tokens[-1].value} {words}")
    else:
        tokens.append(Token("text", words))
