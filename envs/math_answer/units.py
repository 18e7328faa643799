"""Units as factors: `10 cm` is 10 times the symbol `cm`. So are per cent, degrees, money, and the bases of numbers."""

from __future__ import annotations

import re

from sympy import Expr, Symbol


class Unit(Symbol):
    """A unit, as a factor."""


PERCENT, DEGREE = Unit("percent"), Unit("degree")
CURRENCIES = {"\\dollar": Unit("dollar"), "\\euro": Unit("euro"), "\\pound": Unit("pound sterling")}

_ALIASES = {
    "mm": "millimeter millimetre", "cm": "centimeter centimetre", "m": "meter metre", "km": "kilometer kilometre",
    "in": "inch inches", "ft": "foot feet", "yd": "yard", "mi": "mile", "mg": "milligram", "g": "gram",
    "kg": "kilogram", "lb": "lbs pound", "oz": "ounce", "s": "sec second", "min": "minute", "h": "hr hour",
    "mL": "ml milliliter millilitre", "L": "l liter litre", "dollar": "usd buck", "euro": "eur", "cent": "¢",
    "degree": "deg", "percent": "percentage pct", "unit": "",
}  # fmt: skip
UNITS: dict[str, Expr] = {
    alias: Unit(name) for name, aliases in _ALIASES.items() for alias in (name, *aliases.split())
}
UNITS |= {"mph": Unit("mi") / Unit("h"), "cc": Unit("cm") ** 3}
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
# Words after a number that change how much it is, or take it back.
_NO_UNITS = {
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety", "dozen",
    "score", "hundred", "thousand", "million", "billion", "trillion", "half", "halves", "third", "thirds",
    "fourth", "fourths", "quarter", "quarters", "fifth", "fifths", "sixth", "sixths", "seventh", "sevenths",
    "eighth", "eighths", "ninth", "ninths", "tenth", "tenths", "hundredth", "hundredths", "thousandth",
    "thousandths", "plus", "minus", "times", "over", "divided", "by", "mod", "modulo", "power", "root",
    "squared", "cubed", "factorial", "choose", "inverse", "reciprocal", "negative", "positive", "point",
    "pi", "double", "triple", "twice", "fold", "pair", "pairs", "less", "more", "than", "about",
    "approximately", "around", "nearly", "almost", "equal", "equals", "to", "of", "not", "no", "nor",
    "neither", "either", "but", "if", "is", "are", "was", "wait", "maybe", "perhaps", "actually", "instead",
    "wrong", "correct", "false", "true", "unknown",
}  # fmt: skip


def base_unit(base: int) -> Unit:
    """The unit of digits in a base: `52_8` is 52 of these, not 42."""
    return Unit(f"base {base}")


def is_base(unit: Expr) -> bool:
    """Whether this is the unit of digits in some base."""
    return isinstance(unit, Unit) and unit.name.startswith("base ")


def read_unit(words: str) -> Expr | None:
    """What words after a number measure (`square feet`, `miles per hour`, `apples`); None if they say otherwise."""
    top, *below = [_simple_unit(part) for part in re.split(r"\bper\b|/", words)]
    if top is None or None in below:
        return None
    for unit in below:
        top /= unit
    return top


def _simple_unit(words: str) -> Expr | None:
    names = re.findall(r"[^\W\d_]+|¢", words)
    if not 1 <= len(names) <= 4 or not _NO_UNITS.isdisjoint(name.lower() for name in names):
        return None
    power = _POWERS.get(names[0].lower(), 1) if len(names) > 1 else 1
    name = " ".join(names[power > 1 :])
    singular = name.lower().removesuffix("s")
    return (UNITS.get(name) or UNITS.get(name.lower()) or UNITS.get(singular) or Unit(singular)) ** power
