"""Units as factors: `10 cm` is 10 times the symbol `cm`. So are per cent, degrees, money, and the bases of numbers."""

from __future__ import annotations

import re

from sympy import Expr, Integer, Symbol


class Unit(Symbol):
    """A unit, as a factor."""


PERCENT, DEGREE = Unit("percent"), Unit("degree")
CURRENCIES = {
    "\\dollar": Unit("dollar"), "\\euro": Unit("euro"), "\\pound": Unit("pound sterling"), "\\yen": Unit("yuan"),
    "\\rupee": Unit("rupee"),
}  # fmt: skip

_ALIASES = {
    "mm": "millimeter millimetre", "cm": "centimeter centimetre", "m": "meter metre", "km": "kilometer kilometre",
    "in": "inch inches", "ft": "foot feet", "yd": "yard", "mi": "mile", "mg": "milligram", "g": "gram",
    "kg": "kilogram", "lb": "lbs pound", "oz": "ounce", "s": "sec second", "min": "minute", "h": "hr hour",
    "mL": "ml milliliter millilitre", "L": "l liter litre", "dollar": "usd buck", "euro": "eur", "cent": "¢",
    "degree": "deg", "radian": "rad", "percent": "percentage pct", "unit": "", "day": "", "cup": "", "week": "wk",
    "celsius": "centigrade", "fahrenheit": "", "yuan": "yen rmb cny", "rupee": "",
}  # fmt: skip
UNITS: dict[str, Expr] = {
    alias: Unit(name) for name, aliases in _ALIASES.items() for alias in (name, *aliases.split())
}
UNITS |= {"mph": Unit("mi") / Unit("h"), "kph": Unit("km") / Unit("h"), "cc": Unit("cm") ** 3}
DEGREES = {"C": UNITS["celsius"], "F": UNITS["fahrenheit"]}  # after the sign of degrees
# How much a unit is of the first of its kind.
_SIZES = {
    Unit(name): size * Unit(kinds[0])
    for kinds, sizes in (
        (("mm", "cm", "m", "km"), (1, 10, 1000, 10**6)), (("in", "ft", "yd", "mi"), (1, 12, 36, 63360)),
        (("mg", "g", "kg"), (1, 1000, 10**6)), (("oz", "lb"), (1, 16)), (("mL", "L"), (1, 1000)),
        (("s", "min", "h", "day", "week"), (1, 60, 3600, 86400, 604800)), (("cent", "dollar"), (1, 100)),
    )
    for name, size in zip(kinds, sizes, strict=True)
}  # fmt: skip
_SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_PLURALS = {f"{name}s" for name in ("hr", "min", "sec", "yd", "kg", "km", "cm", "mm", "mL", "ml", "oz", "wk")}
UNIT_WORDS = {*UNITS, *_POWERS, *_PLURALS, "per"}
_UNIT = re.compile(r"((?:[^\W\d_]|[\s.,'()¢-])+)(?:\^?\{?([23])\}?\s*)?")
# Words after a number that change how much it is, or take it back.
_NUMERALS = {
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "twenty",
    "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety", "dozen", "score", "gross", "hundred",
    "thousand", "lakh", "million", "crore", "billion", "trillion", "quadrillion", "zillion", "half", "halve", "third",
    "fourth", "quarter", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "hundredth", "thousandth", "pair",
}  # fmt: skip
# Directions below nought, what is lost or owed, and what a value falls short of or goes beyond.
_TAKEN_BACK = {
    "below", "beneath", "under", "above", "beyond", "behind", "down", "downward", "downwards", "backward",
    "backwards",
    "ago", "before", "out", "loss", "losses", "lost", "lose", "loses", "losing", "debt", "debts", "debit", "owed",
    "owe", "owes", "owing", "deficit", "shortfall", "short", "shy", "lacking", "missing", "overdrawn", "overdraft",
    "decrease", "decreased", "drop", "dropped", "fall", "fell", "decline", "declined", "reduction",
    "liability", "liabilities", "penalty", "fewer", "without", "minuses", "subtracted", "excess", "within", "until",
    "through", "till", "between", "versus", "vs", "bound", "limit", "error", "tolerance", "ish", "ignore", "scratch",
    "sorry", "hmm", "else", "alternatively", "rather", "give", "take", "could", "might", "may", "would", "should",
}  # fmt: skip
_SHARES = {
    "mille", "permille", "promille", "permil", "mil", "ppm", "ppb", "ppt", "myriad", "couple", "couples", "few",
    "several",
    "trio", "trios", "triplet", "triplets", "quartet", "duo", "duos", "tuple", "brace", "baker", "bakers", "k",
    "thirteen",
    "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "grand", "oodles", "percentile",
    "basis", "bps", "googol", "twofold", "threefold", "fourfold", "fivefold", "tenfold", "hundredfold",
}  # fmt: skip
# What is an answer of its own, and measures nothing.
_ANSWERS = {
    "monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday", "yes", "odd", "even",
    "undefined", "none",
    "infinite", "infinity", "infinitely", "prime", "composite", "rational", "irrational", "hyperbola", "ellipse",
    "parabola",
}  # fmt: skip
NO_UNITS = {
    "plus", "minus", "times", "over", "divided", "by", "mod", "modulo", "power", "root", "squared", "cubed",
    "factorial", "choose", "inverse", "reciprocal", "negative", "positive", "point", "pi", "double", "triple",
    "twice",
    "fold", "less", "more", "than", "about", "approximately", "approx", "roughly", "around", "nearly", "almost",
    "least", "most", "minimum", "maximum", "equal", "equals", "to", "and", "or", "not", "no", "nor", "never",
    "neither", "either", "except", "unless", "but", "if", "is", "are", "was", "wait", "maybe", "perhaps", "actually",
    "instead", "possibly", "probably", "otherwise", "opposite", "imaginary", "wrong", "incorrect", "correct",
    "invalid",
    "false", "true", "unknown", *_TAKEN_BACK, *_SHARES, *_ANSWERS,
    *_NUMERALS, *(f"{numeral}s" for numeral in _NUMERALS),
}  # fmt: skip


class Based(Unit):
    """A number in a base, such as `52_8`: its digits are neither 52 nor the 42 that they stand for."""


def based(value: int, base: int) -> Expr:
    """The number with these digits in a base; its sign is no part of it."""
    sign = -1 if value < 0 else 1
    return sign * Based(f"{abs(value)}_{base}")


def conversion(gold: Expr, given: Expr) -> Expr | None:
    """How many of one unit another is, such as 1/60 hours a minute; None if they are of different kinds."""
    ratio = (given / gold).subs(_SIZES)
    return ratio if ratio.is_Rational else None


def read_unit(words: str) -> Expr | None:
    """What words after a number measure (`square feet`, `miles per hour`, `apples`); None if they say otherwise."""
    top, *below = re.split(r"\bper\b|/", words)
    # `18 per day` counts what goes without saying.
    unit = _simple_unit(top) if top.strip() or not below else Integer(1)
    for divisor in map(_simple_unit, below):
        unit = unit / divisor if unit and divisor else None
    return unit


def is_no_unit(word: str) -> bool:
    """Whether a word after a number says something else than what the number counts or measures."""
    word = word.lower()
    return word in NO_UNITS or word.endswith(("illion", "illions", "ieth", "ieths", "eenth", "eenths"))


def _simple_unit(words: str) -> Expr | None:
    if not (match := _UNIT.fullmatch(words)):
        return None
    names = re.findall(r"[^\W\d_]+|¢", match[1])
    if names and names[0].lower() in _SCALES:  # `20 million`, `20 million dollars`
        rest = words.partition(names[0])[2]
        unit = _simple_unit(rest) if rest.strip() else Integer(1)
        return unit and unit * _SCALES[names[0].lower()]
    if not 1 <= len(names) <= 4 or any(map(is_no_unit, names)):
        return None
    if names[0].lower() in ("degree", "degrees", "deg") and names[-1].lower() in ("celsius", "fahrenheit"):
        names = names[-1:]
    adjective = _POWERS.get(names[0].lower(), 1) if len(names) > 1 else 1
    power = int(match[2] or adjective)
    name = " ".join(names[adjective > 1 :])
    singular = name.lower().removesuffix("s")
    if len(name) == 1 and name not in UNITS:
        return None
    return (UNITS.get(name) or UNITS.get(name.lower()) or UNITS.get(singular) or Unit(singular)) ** power
