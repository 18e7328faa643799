"""The README's code does what the README says."""

from __future__ import annotations

import re
from pathlib import Path

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_the_evaluation_loop_judges_any_callable():
    (block,) = re.findall(r"```python\n(import gymnasium.*?)```", README, re.DOTALL)
    namespace: dict = {}
    exec(block, namespace)
    asked: list[str] = []

    def gives_up(system: str, question: str, prefix: str) -> str:
        asked.append(question)
        return " I do not know.</think>\n<answer> 0 </answer>"

    assert namespace["accuracy"](gives_up, episodes=5) == 0.0
    assert len(set(asked)) == 5 and all("create an equation" in question for question in asked)

    def knows(system: str, question: str, prefix: str) -> str:
        numbers, target = re.search(r"numbers \[(.*?)\].*equals (\d+)", question).groups()
        return f" easy</think><answer>{_solve([int(n) for n in numbers.split(',')], int(target))}</answer>"

    assert namespace["accuracy"](knows, episodes=5) == 1.0


def _solve(numbers: list[int], target: int) -> str | None:
    """Any expression over all numbers, by exhaustive search over whole results."""

    def search(terms: list[tuple[int, str]]) -> str | None:
        if len(terms) == 1:
            return terms[0][1] if terms[0][0] == target else None
        for i in range(len(terms)):
            for j in range(len(terms)):
                if i == j:
                    continue
                (a, left), (b, right) = terms[i], terms[j]
                rest = [term for k, term in enumerate(terms) if k not in (i, j)]
                results = [(a + b, "+"), (a - b, "-"), (a * b, "*")] + (
                    [(a // b, "/")] if b and a % b == 0 else []
                )
                for value, symbol in results:
                    if found := search([*rest, (value, f"({left} {symbol} {right})")]):
                        return found
        return None

    return search([(n, str(n)) for n in numbers])
