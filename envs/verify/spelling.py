r"""One spelling for what says the same: characters, marks around an answer, doubled backslashes; knows no grammar.

All verifiers read an answer so: `**½**`, `$\\frac{1}{2}$` and `The answer is \boxed{\frac{1}{2}}.` are one text. A mark
that says something, such as a bracket or a unit, stays. The time is linear in the text.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

# By Unicode's compatibility decompositions (NFKC) only these are other spellings: a circled or a Roman five is none.
_SAME = ("<wide>", "<narrow>", "<font>")
_CHARACTERS = {
    **dict.fromkeys("−–—‐‑‒―﹣－⁃", "-"), "×": "\\times ", "·": "\\cdot ", "⋅": "\\cdot ", "∙": "\\cdot ",
    "÷": "\\div ", "⁄": "/", "∕": "/", "∗": "*", "±": "\\pm ", "∓": "\\mp ", "√": "\\sqrt ", "∛": "\\sqrt[3] ",
    "∜": "\\sqrt[4] ", "≤": "\\le ", "≥": "\\ge ", "⩽": "\\le ", "⩾": "\\ge ", "≦": "\\le ", "≧": "\\ge ",
    "≠": "\\ne ", "≈": "\\approx ", "≡": "\\equiv ", "∈": "\\in ", "∉": "\\notin ", "∪": "\\cup ", "∩": "\\cap ",
    "∖": "\\setminus ", "∣": "\\mid ", "∅": "\\emptyset ", "⌀": "\\emptyset ", "∞": "\\infty ", "°": "^\\circ ",
    "º": "^\\circ ", "℃": "^\\circ C", "℉": "^\\circ F", "∘": "\\circ ", "∶": ":", "′": "'", "″": "''", "…": "\\ldots ",
    "⋯": "\\ldots ", "→": "\\to ", "∠": "\\angle ", "⌊": "\\lfloor ", "⌋": "\\rfloor ", "⌈": "\\lceil ",
    "⌉": "\\rceil ", "⟨": "\\langle ", "⟩": "\\rangle ", "∑": "\\sum ", "¢": " cents ", "€": "\\euro ",
    "£": "\\pound ", "￡": "\\pound ", "¥": "\\yen ", "￥": "\\yen ", "、": ",", "’": "'", "‘": "'", "“": '"',
    "”": '"', "ϕ": "\\phi ", "µ": "μ",
    "ℝ": "\\mathbb{R}", "ℤ": "\\mathbb{Z}", "ℕ": "\\mathbb{N}", "ℚ": "\\mathbb{Q}", "ℂ": "\\mathbb{C}",
}  # fmt: skip
_GREEK = dict(zip(
    "αβγδεζηθκλμνξπρστφχψωΓΔΘΛΞΣΦΨΩ",
    ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "kappa", "lambda", "mu", "nu",
    "xi", "pi", "rho",
     "sigma", "tau", "phi", "chi", "psi", "omega", "Gamma", "Delta", "Theta", "Lambda", "Xi", "Sigma", "Phi", "Psi",
     "Omega"], strict=True,
))  # fmt: skip
_CHARACTERS |= {letter: f"\\{name} " for letter, name in _GREEK.items()}
_RAISED, _LOWERED = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿⁱ", "₀₁₂₃₄₅₆₇₈₉₊₋ₙ"
_INDEX = re.compile(f"(?P<raised>[{_RAISED}]+)|[{_LOWERED}]+")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")

_DOUBLED = re.compile(r"\\\\(?=[A-Za-z{}%$,;!:()\[\]])")
# `√13` is the root of 13; LaTeX's `\sqrt 13` is that of 1.
_ROOT = re.compile(r"([√∛∜]|(?<![\\A-Za-z])sqrt)\s*([0-9]+(?:\.[0-9]+)?)")
_MARKED = (
    re.compile(
        r"(?:\A|(?<=[\s(:]))(\*{2,3})(?=[^\s*])([^*]+)(?<=\S)\1(?![*\w(])"
    ),  # Markdown; before `x**2` is an x
    re.compile(r"(`{1,3})(?=[^`])([^`]+)(?<=[^`])\1(?!`)"),
    re.compile(r"(?:\A|(?<=:\s))(\*|__?)(?=[^\s*_])([^*_]+)(?<=\S)\1(?=[.\s]*\Z)"),
)
_BULLET = re.compile(r"\A[✅✔☑\uFE0F\s]+")
_PREFIX = re.compile(
    r"\A\s*(?:(?:(?:so|thus|hence|therefore),?\s+)?(?:the\s+|my\s+)?(?:final\s+|correct\s+)?"
    r"(?:answer|result)\s*(?:is\b\s*:?|:|=)|####\s|=(?!=)|\\therefore(?![A-Za-z]))\s*",  # "####" is GSM8K's own
    re.IGNORECASE,
)
_DOLLAR = re.compile(r"(?<!\\)\$")
_THOUSANDS = re.compile(r"(?<=[0-9])(?:\{,\}|,\\!|\\,|\\ |\\;)\s*(?=[0-9]{3}(?![0-9]))")
_SPACED_THOUSANDS = re.compile(r"(?<![0-9,.])[0-9]{1,3}(?: [0-9]{3})+(?![0-9])")
_BRACED_DEGREE = re.compile(r"\^\s*\{\s*\\circ\s*\}")
_DROPPED = re.compile(
    r"\\(?:left|right|middle|[bB]igg?[lmr]?|displaystyle|textstyle|limits|quad|qquad|angle|boxed|fbox|rm|bf|it)(?![A-Za-z])"
    r"|(?<!\\)\\[!,;:> \[\]()]|(?<=\S)~"
)

_MAX_WRAPPERS = 8
_WRAPPED = re.compile(
    r"\\(?:boxed|fbox|text|textbf|textit|textrm|textnormal|mbox|mathrm|mathbf|mathit|mathsf|boldsymbol|bm)\s*\{(.*)\}",
    re.DOTALL,
)
_MATHEMATICS = re.compile(r"\\[(\[](.*)\\[)\]]", re.DOTALL)
_BRACE = re.compile(r"(?<!\\)[{}]")


def normalized(text: str) -> str:
    """The text in its one spelling, without what says nothing: marks, "the answer is", sizes, a full stop."""
    text = unwrapped(text)
    text = _BRACED_DEGREE.sub(r"^\\circ ", _DROPPED.sub(" ", _THOUSANDS.sub(",", text)))
    return _SPACED_THOUSANDS.sub(lambda match: match[0].replace(" ", ","), text).strip()


def unwrapped(text: str) -> str:
    """The text in its own characters, without marks around the whole and around mathematics; boxes stay."""
    text = in_plain_characters(text).strip()
    for mark in _MARKED:
        text = mark.sub(r"\2", text)
    text = _PREFIX.sub("", without_full_stop(_BULLET.sub("", text)), count=1)
    if len(_DOLLAR.findall(text)) % 2 == 0:  # marks around mathematics; one alone is money
        text = _DOLLAR.sub("  ", text)
    return without_full_stop(re.sub(r"\\?\$", r" \\dollar ", text)).strip()


def in_plain_characters(text: str) -> str:
    """ASCII where there is a spelling in it, and one backslash where a file was escaped twice."""
    text = _ROOT.sub(r"\1{\2}", text)
    if not text.isascii():
        text = _NOT_ASCII.sub(lambda match: _character(match[0]), _INDEX.sub(_index, text))
    if "\\\\" in text:
        if "\\\\begin" in text:
            text = text.replace("\\\\", "\\")
        elif "\\begin" not in text:  # where it would end a row
            text = _DOUBLED.sub(r"\\", text)
    return text


def bare(text: str) -> str:
    r"""The text within the boxes, fonts and marks around the whole of it, in its one spelling."""
    for _ in range(_MAX_WRAPPERS):
        text = unwrapped(text)
        match = _WRAPPED.fullmatch(text) or _MATHEMATICS.fullmatch(text)
        if not match or (match.re is _WRAPPED and not _is_balanced(match[1])):
            break
        text = match[1]
    return normalized(text)


def _is_balanced(text: str) -> bool:
    depth = 0
    for brace in _BRACE.finditer(text):
        depth += 1 if brace[0] == "{" else -1
        if depth < 0:
            return False
    return depth == 0


def without_full_stop(text: str) -> str:
    """The text without the dot that ends a sentence."""
    text = text.rstrip()
    return (
        text if text.endswith("..") else text.removesuffix(".").removesuffix("。")
    )  # dots that go on are no full stop


def _index(run: re.Match[str]) -> str:
    digits = unicodedata.normalize("NFKC", run[0]).replace("−", "-")
    return f"{'^' if run['raised'] else '_'}{{{digits}}}"


@lru_cache(maxsize=4096)
def _character(char: str) -> str:
    if char in _CHARACTERS:
        return _CHARACTERS[char]
    if char.isspace():
        return " " if char not in "\u2028\u2029\x85" else "\n"
    kind = unicodedata.decomposition(char).partition(" ")[0]
    if kind == "<fraction>":  # ½; LaTeX's, so that 3½ is a mixed number
        top, _, bottom = unicodedata.normalize("NFKC", char).partition("⁄")
        return f"\\frac{{{top}}}{{{bottom}}}" if bottom else char
    if kind in _SAME:
        plain = unicodedata.normalize("NFKC", char)
        return _CHARACTERS.get(plain, plain)
    return char
