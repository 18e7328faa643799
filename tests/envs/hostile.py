"""What the tables of hostile answers to mathematics and to whole numbers share."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

CANARY = Path(tempfile.gettempdir()) / f"hostile-math-{os.getpid()}"  # exists once some answer has been run
TOUCH = f"touch {CANARY}"
MEGA = 1_000_000
# Most of them are 5 to Python's int(); full-width and mathematical digits are read, and stand elsewhere.
FIVES = "٥۵५੫૫௫౫൫๕໕༥၅᠕⁵₅⑤⑸⒌❺➄➎㊄五Ⅴⅴ"

CODE = [
    f"__import__('os').system('{TOUCH}')", f'__import__("os").system("{TOUCH}")', f"import os; os.system('{TOUCH}')",
    f"exec(\"import os; os.system('{TOUCH}')\")", f"eval(\"__import__('os').system('{TOUCH}')\")",
    f"open('{CANARY}', 'w')", f"open('{CANARY}', 'w').write('5')", f"(lambda: open('{CANARY}', 'w'))()",
    f"[open('{CANARY}', 'w') for _ in [0]]", f"print(5, file=open('{CANARY}', 'w'))",
    f"f\"{{open('{CANARY}', 'w')}}\"", f"5; __import__('os').system('{TOUCH}')",
    f"5\n__import__('os').system('{TOUCH}')",
    f"5 + 0*__import__('os').system('{TOUCH}')", f"5 if open('{CANARY}', 'w') else 5", f"5 or open('{CANARY}', 'w')",
    f"__import__('pathlib').Path('{CANARY}').touch()", f"__import__('subprocess').run(['touch', '{CANARY}'])",
    f"().__class__.__bases__[0].__subclasses__()[0]('{CANARY}')", f"getattr(__builtins__, 'open')('{CANARY}', 'w')",
    f"globals()['__builtins__']['open']('{CANARY}', 'w')", f"compile(\"open('{CANARY}', 'w')\", '', 'exec')",
    f"breakpoint() or open('{CANARY}', 'w')", f"@open('{CANARY}', 'w')", f"class A(open('{CANARY}', 'w')): pass",
    "exit()", "quit()", "exit(0)", "os._exit(0)", "os.abort()", "raise SystemExit", "sys.exit(0)", "import antigravity",
    "while True: pass", "[0 for _ in iter(int, 1)]", "'a' * 10**10", "[0] * 10**10", "bytearray(10**11)", "input()",
    "lambda: 5", "(lambda: 5)()", "[5][0]", "{5}.pop()", "chr(53)", "f'{5}'", "len('aaaaa')", "int('5')", "eval('5')",
    "sum([2, 3])", "next(iter([5]))", "(5).__class__", "5 .__class__.__mro__", "gold", "answer", "target", "self.gold",
    "os.fork()", "import resource", "signal.alarm(1)", "del int", "int = str", "x := 5; x + 1", "assert 0",
]  # fmt: skip

# By category: (right answer, texts that give it, texts that do not).
Table = dict[str, list[tuple[Any, list[str], list[str]]]]


def cases_of(table: Table) -> list[Any]:
    cases = []
    for category, rows in table.items():
        judged = []
        for target, right, wrong in rows:
            judged += [(target, answer, True) for answer in right]
            judged += [(target, answer, False) for answer in wrong]
        cases += [pytest.param(*case, id=f"{category}-{i}") for i, case in enumerate(judged)]
    return cases
