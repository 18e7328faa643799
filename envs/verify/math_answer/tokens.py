r"""Cuts a mathematical answer, in LaTeX or as people type it, into tokens; knows no grammar.

Spellings are made one here: `\dfrac` and `\frac`, `×` and `\times` and `*`, `1{,}234` and `1,234`. Words become
functions (`sqrt`), separators (`and`, `or`), products of letters (`xy`), or, where they stand together, one text.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from envs.verify.math_answer.units import UNIT_WORDS


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

_CHARACTERS = str.maketrans({
    "−": "-", "–": "-", "×": "\\times ", "·": "\\cdot ", "⋅": "\\cdot ", "÷": "\\div ", "√": "\\sqrt ", "±": "\\pm ",
    "≤": "\\le ", "≥": "\\ge ", "≠": "\\ne ", "∪": "\\cup ", "∈": "\\in ", "°": "^\\circ ", "²": "^2 ", "³": "^3 ",
    "π": "\\pi ", "∅": "\\emptyset ", "θ": "\\theta ", "∞": "\\infty ", "€": "\\euro ", "£": "\\pound ",
    "\u00a0": " ", "\u2009": " ", "\u202f": " ", "∛": "\\sqrt[3] ", "≈": "\\approx ",
})  # fmt: skip
# `√13` is the root of 13; LaTeX's `\sqrt 13` is that of 1.
_ROOT = re.compile(r"([√∛]|(?<![\\A-Za-z])sqrt)\s*([0-9]+(?:\.[0-9]+)?)")
_BOLD = re.compile(r"(?:\A|(?<=\s))\*\*(?=\S)(.+?)(?<=\S)\*\*")  # in Markdown; before `x**2` there is an x
_PREFIX = re.compile(
    r"\A\s*(?:(?:(?:so|thus|hence|therefore),?\s+)?(?:the\s+|my\s+)?(?:final\s+)?answer\s*(?:is\b\s*:?|:|=)"
    r"|####\s|=)\s*",  # "####" is GSM8K's own
    re.IGNORECASE,
)
_DOLLAR = re.compile(r"(?<!\\)\$")
_THOUSANDS = re.compile(r"(?<=[0-9])(?:\{,\}|,\\!|\\,|\\ |\\;)\s*(?=[0-9]{3}(?![0-9]))")
_SPACED_THOUSANDS = re.compile(r"(?<![0-9,.])[0-9]{1,3}(?: [0-9]{3})+(?![0-9])")
# The whole run of numbers: `2,3,125` groups nothing.
_GROUPED = re.compile(r"(?<![0-9.])(?<![0-9],)[0-9]{1,3}(?:,[0-9]{3})+(?!,?[0-9])(?:\.[0-9]+)?")
_PRIMES = re.compile(r"\^\s*\{?\s*((?:\\prime\s*)+)\}?|[’′]|″")
_BRACED_DEGREE = re.compile(r"\^\s*\{\s*\\circ\s*\}")
_DROPPED = re.compile(
    r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|textstyle|limits|quad|qquad|angle|boxed|fbox|rm|bf|it)(?![A-Za-z])"
    r"|(?<!\\)\\[!,;:> \[\]()]|(?<=\S)~"
)
_TOKEN = re.compile(
    r"(?P<number>(?:[0-9]+(?:\.[0-9]+|\.(?=\s*\\overline))?|\.[0-9]+)(?:[eE][+-]?[0-9]+(?![A-Za-z0-9]))?)"
    r"|(?P<command>\\[A-Za-z]+|\\.)|(?P<word>[A-Za-z]+)|(?P<symbol><=|>=|!=|\*\*|\S)",
    re.DOTALL,
)
_WORDS = re.compile(r"[^\w$\\]*+(?=[^\W\d_])(?:.*[^\W\d_]{2}|[^\W\d_]\W*\Z)", re.DOTALL)  # before any number
_OPEN_BRACE, _BRACE = re.compile(r"\s*\{"), re.compile(r"[{}]")
_TEXT_COMMANDS = {
    f"\\{name}" for name in ("text", "textbf", "textit", "textrm", "mbox", "hbox", "mathrm", "operatorname")
}
_FONT_COMMANDS = {f"\\{name}" for name in ("mathbf", "mathit", "mathcal", "mathsf", "boldsymbol", "vec")}
_SPELLINGS = {
    "\\dfrac": "\\frac", "\\tfrac": "\\frac", "\\cfrac": "\\frac", "\\dbinom": "\\binom", "\\tbinom": "\\binom",
    "\\cdot": "*", "\\times": "*", "\\ast": "*", "\\div": "/", "**": "^", "\\colon": ":", "\\%": "%",
    "\\leq": "<=", "\\le": "<=", "\\leqslant": "<=", "\\geq": ">=", "\\ge": ">=", "\\geqslant": ">=",
    "\\lt": "<", "\\gt": ">", "\\ne": "!=", "\\neq": "!=", "\\lvert": "|", "\\rvert": "|", "\\vert": "|", "\\mid": "|",
    "\\degree": "\\circ", "\\lbrace": "\\{", "\\rbrace": "\\}", "\\varnothing": "\\emptyset",
}  # fmt: skip
_WORD_COMMANDS = {
    **{name: f"\\{name}" for name in (*FUNCTIONS, "sqrt", "pi", "theta", "alpha", "beta", "infty")},
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


def words_of(text: str) -> str:
    """A text without LaTeX's wrappers, case and punctuation: what two text answers are compared by."""
    wrappers = "|".join(command[1:] for command in sorted(_TEXT_COMMANDS | _FONT_COMMANDS))
    text = re.sub(rf"\\(?:{wrappers})\b|\\[^A-Za-z]", " ", _clean(text))
    return " ".join(re.findall(r"[^\W_]+", text.lower()))


def _clean(text: str) -> str:
    """Takes away what says nothing: marks around mathematics, "the answer is", spacing, sizes, a full stop."""
    text = _ROOT.sub(r"\1{\2}", text).translate(_CHARACTERS).strip()
    text = _PREFIX.sub("", _without_full_stop(_BOLD.sub(r"\1", text)), count=1)
    if len(_DOLLAR.findall(text)) % 2 == 0:  # marks around mathematics; one alone is money
        text = _DOLLAR.sub(" ", text)
    text = _without_full_stop(re.sub(r"\\?\$", r" \\dollar ", text))
    text = _PRIMES.sub(lambda match: "'" * (match[0].count("prime") or 1 + (match[0] == "″")), text)
    text = _BRACED_DEGREE.sub(r"^\\circ ", _DROPPED.sub(" ", _THOUSANDS.sub(",", text)))
    return _SPACED_THOUSANDS.sub(lambda match: match[0].replace(" ", ","), text)


def _without_full_stop(text: str) -> str:
    text = text.rstrip()
    return text if text.endswith("..") else text.removesuffix(".")  # dots that go on are no full stop


def _tokens(text: str) -> list[Token]:
    tokens: list[Token] = []
    position = depth = 0
    while match := _TOKEN.search(text, position):
        position, kind, value = match.end(), match.lastgroup, match[0]
        if kind == "number":
            # Outside brackets a comma before exactly three digits groups thousands; inside, it separates.
            if depth == 0 and (group := _GROUPED.match(text, match.start())):
                position, value = group.end(), group[0].replace(",", "")
            tokens.append(Token(kind, value))
        elif value in _TEXT_COMMANDS or value in _FONT_COMMANDS:
            content, position = _braced(text, position)
            if value in _TEXT_COMMANDS and _WORDS.match(content):
                _add_words(tokens, content)
            else:
                tokens += _tokens(content)
        elif kind == "word":
            _add_word(tokens, value)
        else:
            value = _SPELLINGS.get(value, value)
            depth += (value in OPENING) - (value in CLOSING)
            tokens.append(Token("command" if value[0] == "\\" else "symbol", value))
    return tokens


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
