r"""Answers that a computer algebra system would work on for long: power towers, nested roots, huge factorials.

    python experiments/benchmarks/bench_heavy.py

judges 1,000 of them, by golds that the verifier's own grammar knows and by others, two at once, and takes the time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice

from envs.verify.verifiers import verify_math

NUM_PAIRS = 1000
GOLDS = (
    "5", r"\frac{1}{2}", "x^2+1", r"\lfloor n/2 \rfloor", r"2^{100000}", r"\sqrt{2}+\sqrt{3}", "x > 3",
    r"\int_0^1 x^2 dx", r"a \equiv 3 \pmod 7", r"\mathbb{Z}", r"\sum_{k=1}^{\infty} \frac{1}{k^2}",
    r"\lim_{x \to 0} x^x",
)  # fmt: skip


def answers() -> Iterator[str]:
    """Heavy ones without end, no two alike."""
    size = 3
    while True:
        power, digit = "^{" * size, str(2 + size % 8)
        roots = size + 10
        yield from (
            power.join([digit] * (size + 1)) + "}" * size,
            power.join(["x"] * (size + 1)) + "}" * size,
            f"{10**size}!" + "!" * (size % 4),
            f"({size}!!)!" + f"+{size}",
            rf"\frac{{{900 + size}!}}{{{800 + size}!}}" * 2,
            r"\sqrt{" * roots + digit + "}" * roots,
            rf"\sqrt{{{digit}+" * roots + "x" + "}" * roots,
            "+".join(rf"\sqrt[{n}]{{{n + size}}}" for n in range(2, 20)),
            "+".join(rf"\sqrt{{{n * n + size}}}" for n in range(2, 40)),
            rf"\sqrt[{10**size}]{{{digit * 60}}}",
            rf"\left(1+\sqrt{{{digit}}}\right)^{{{1000 * size}}}",
            rf"(x+{size})^{{{9000 + size}}} - (x+1)^{{{9000 + size}}}",
            "(" * 20 + "x" + rf"^{{{2 + size % 5}}}+1)" * 20,
            rf"\binom{{{10**size}}}{{{10**size // 2}}}",
            rf"\sin({digit}^{{{digit}^{{{size}}}}})",
            r"\lfloor " * 12 + rf"x^{{{size}}}" + r"/7 \rfloor" * 12,
            r"\log_2 " * 8 + digit * 300,
            "|" + "|+|".join(f"x-{n}" for n in range(size, size + 30)) + "|",
            rf"e^{{e^{{e^{{{size}}}}}}}",
            rf"\sum_{{k=1}}^{{{10**size}}} \frac{{1}}{{k^{digit}}}",
        )
        size += 1


def pairs(count: int = NUM_PAIRS) -> list[tuple[str, str]]:
    """Heavy answers, and a gold for each."""
    return list(zip(islice(answers(), count), cycle(GOLDS), strict=False))


def main() -> None:
    """Judges them, and says how long that took."""
    verify_math("1/2", "0.5")  # starts a worker

    started = time.perf_counter()
    with ThreadPoolExecutor(2) as executor:
        verdicts = list(executor.map(lambda pair: verify_math(*pair), pairs()))
    print(
        f"{len(verdicts)} heavy answers: {time.perf_counter() - started:.1f} s, accepted {verdicts.count(None)}"
    )
    for verdict in sorted(set(map(str, verdicts))):
        print(f"{verdict}: {sum(str(v) == verdict for v in verdicts)}")


if __name__ == "__main__":
    main()
