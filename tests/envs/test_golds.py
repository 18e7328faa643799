"""Questions and right answers of rows, by all forms that data sets have."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from envs.golds import read_choices, read_question, right_answer, says_nothing


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        (r"... so the integers are $\boxed{1}$ and $\boxed{-2}.$", "1, -2"),
        (r"Hence $x = \boxed{3}$ or $x = \boxed{5}$.", "3, 5"),
        (r"The roots are \boxed{1}, \boxed{2}, and \boxed{3}.", "1, 2, 3"),
        (r"\[\boxed{(1,2)}\quad\text{and}\quad\boxed{(2,1)}\]", "(1,2), (2,1)"),
        ("We have $a=\\boxed{4}$,\n$b=\\boxed{7}$", "4, 7"),
        (r"\begin{align*}x &= \boxed{2} \\ y &= \boxed{9}\end{align*}", "2, 9"),
        (r"The least is $\boxed{2}$, reached at $x=\boxed{\frac{1}{3}}$.", r"2, \frac{1}{3}"),
        (r"If $n=2.5$, it is $\boxed{6}$; if $n=3.5$, it is $\boxed{8}$.", "6, 8"),
        # Of another sentence, or a step on the way: the last alone.
        (r"First \boxed{1}, then $\boxed{\frac{3}{4}}$.", r"\frac{3}{4}"),
        (r"So $n = \boxed{12}$. The sum of its digits is $\boxed{3}$.", "3"),
        (r"$\boxed{\frac{2}{4}} = \boxed{\frac{1}{2}}$", r"\frac{1}{2}"),
        (r"\begin{align*}x &= \boxed{4+4} \\ &= \boxed{8}\end{align*}", "8"),
        (r"It is $\boxed{\frac{6}{4}}$, which simplifies to $\boxed{\frac{3}{2}}$.", r"\frac{3}{2}"),
        # Said twice, or in two spellings.
        (r"It is $\boxed{2}$, that is $\tan A = \boxed{2}$.", "2"),
        (r"It is $\boxed{15\frac{39}{40}},$ or $\boxed{\frac{639}{40}}$ inches.", r"\frac{639}{40}"),
        (r"It is $\boxed{\frac{1}{2}}$, or $\boxed{0.5}$.", "0.5"),
        (r"It is $\boxed{\frac{1}{2}}$, and thus $\boxed{0.5}$.", "0.5"),
    ],
)
def test_several_boxes(solution: str, answer: str) -> None:
    assert right_answer({"solution": solution}) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Two and two is <<2+2=4>>4.\n#### 4", "4"),
        (r"So the sum is $\boxed{4}$.", "4"),
        ("<think>2 + 2</think>\n<answer> 4 </answer>", "4"),
        ("2 + 2 = 4\nThe answer is: 4", "4"),
        ("It follows.\n**Final answer:** 4.", "4"),
        ("Final Answer: The final answer is $4$. I hope it is correct.", "$4$"),
        ("The answer is -3.5.", "-3.5"),
        # A mark's commas group thousands, or they part and point.
        ("... #### 2,5", "2,5"),
        ("... #### 3, 4", "3, 4"),
        ("#### 1,234,567", "1234567"),
        ("#### -12,000.50", "-12000.50"),
        ("#### $1,200", "$1200"),
        ("#### 12,34", "12,34"),
        ("#### 1,2,300", "1,2,300"),
        ("#### 0,125", "0,125"),
        # No solutions.
        ("(1,2)", "(1,2)"),
        ("x < 5 << 6", "x < 5 << 6"),
        ("none", "none"),
        (r"\{\}", r"\{\}"),
        (">", ">"),
        # Units in brackets.
        ("9 (apples)", "9"),
        ("80 (%)", "80"),
        ("2.5 (square feet)", "2.5"),
        ("17 (cats); 10 (dogs)", "17, 10"),
        ("7 (m)", "7"),
        ("3:30 (p.m.)", "3:30 p.m."),
        ("1/4 (of a pie)", "1/4"),
        ("2 (x)", "2 (x)"),
        ("2 (x + 1)", "2 (x + 1)"),
        ("5 (mod 7)", "5 (mod 7)"),
    ],
)
def test_texts(text: str, answer: str) -> None:
    assert right_answer({"answer": text}) == answer


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        (["1", "2"], "1, 2"),
        ([0, 5], "0, 5"),
        (["70"], "70"),
        ([r"$\frac{1}{2}$"], r"$\frac{1}{2}$"),
        ([1.5, 2.0], "1.5, 2"),
        (["3", "3"], "3"),
        (142.0, "142"),
        (-0.5, "-0.5"),
        (float(np.float32(0.1)), "0.1"),
        (float(np.float32(-3.14)), "-3.14"),
        (0.1, "0.1"),
        (1234567.125, "1234567.125"),
        (1e-7, "0.0000001"),
        (1e22, "10000000000000000000000"),
        (10**30, "1" + "0" * 30),
        (Decimal("5.50"), "5.5"),
        (b"5", "5"),
        (True, "True"),
        (0, "0"),
    ],
)
def test_other_types(value: Any, answer: str) -> None:
    assert right_answer({"answer": value}) == answer


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answer": {"a": 5}}, r"its column `answer` is the dict \{'a': 5\}: write a text or a number"),
        ({"answer": [["1"], ["2"]]}, r"its column `answer` is the list \[\['1'\], .* write one text"),
        ({"answer": ["1", None]}, "column `answer` is the list"),
        ({"answer": ["1", ""]}, "column `answer` is the list"),
        ({"answer": float("inf")}, "column `answer` is the number inf"),
        ({"answer": ("1", "2")}, "column `answer` is tuple"),
        ({"answer": "['70']"}, r"the text \"\['70'\]\", a list or the like written as a text"),
        ({"answer": '["1", "2"]'}, "a list or the like written as a text"),
        ({"answer": "{'answer': 5}"}, "a list or the like written as a text"),
        ({"answer": "b'5'"}, "a list or the like written as a text"),
        ({"final_answer": {"x": 1}}, "column `final_answer` is the dict"),
        (
            {"solution": r"So $x=\boxed{2}$, hence $y=\boxed{3}$."},
            "ends with the boxes 2 and 3, the first of which may",
        ),
        ({"solution": r"$\boxed{4} \Rightarrow \boxed{16}$"}, "ends with the boxes 4 and 16"),
        ({"solution": {"x": 1}}, "column `solution` is the dict"),
        (
            {"solution": [r"\boxed{3}", r"\boxed{4}"]},
            "holds solutions that end with 3, 4: keep the right one",
        ),
        ({"answer": "She has <<2+3=5>>5 of them."}, r"worked solution.*end it with a line \"#### answer\""),
        ({"answer": "#### Step 1\nAdd.\n#### Step 2\nDone."}, "worked solution"),
    ],
)
def test_what_is_no_answer_is_refused(row: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        right_answer(row)


NOTHING = [
    "",
    " \n",
    None,
    float("nan"),
    "nan",
    "NaN",
    "null",
    "None",
    "N/A",
    "<NA>",
    [],
    {},
    "-",
    "?",
    "...",
]


@pytest.mark.parametrize("value", [*NOTHING, "$$", r"\boxed{}", r"$\text{ }$"])
def test_what_says_nothing_is_no_answer(value: Any) -> None:
    assert says_nothing(value)
    with pytest.raises(ValueError, match="no right answer"):
        right_answer({"answer": value})
    assert right_answer({"answer": value, "solution": r"so \boxed{3}"}) == "3"
    assert right_answer({"answer": value, "final_answer": ["4"]}) == "4"


@pytest.mark.parametrize(
    "text",
    [
        "proof",
        "Proof.",
        "notfound",
        "Not found",
        "not_found",
        r"\text{proof}",
        "$unknown$",
        "No answer",
        "TBD",
    ],
)
def test_words_for_a_missing_answer(text: str) -> None:
    for row in (
        {"answer": text},
        {"answer": text, "solution": r"\boxed{3}"},
        {"solution": rf"\boxed{{{text}}}"},
    ):
        with pytest.raises(ValueError, match="stands for an answer that is missing: leave the row out"):
            right_answer(row)


@pytest.mark.parametrize(
    "text",
    ["no solution", "undefined", "none", "does not exist", "0", "No", r"\emptyset", "∅", r"\infty", "="],
)
def test_words_that_are_answers(text: str) -> None:
    assert right_answer({"answer": text}) == text


BODY = "Seven red apples and two green apples are in the basket."
HOW_MANY = "How many apples are in the basket?"


@pytest.mark.parametrize(
    ("row", "question"),
    [
        ({"body": BODY, "question": HOW_MANY}, f"{BODY} {HOW_MANY}"),
        ({"context": "Let $f(x) = x^2$.", "question": "Find $f(3)$."}, "Let $f(x) = x^2$. Find $f(3)$."),
        ({"passage": "Two\nlines.", "question": "Which?"}, "Two\nlines.\nWhich?"),
        ({"body": "", "context": None, "question": "Q?"}, "Q?"),
        ({"body": BODY, "question": f"{BODY} {HOW_MANY}"}, f"{BODY} {HOW_MANY}"),  # there already
        ({"problem": "P", "question": "Q?"}, "P Q?"),
        ({"problem": "P"}, "P"),
        ({"question": "Q?", "problem": "Q?"}, "Q?"),
        (
            {"question": "2 + 2?", "choices": ["3", "4"]},
            "2 + 2?\nA. 3\nB. 4\nAnswer with the letter of the right one.",
        ),
        (
            {"question": "2?", "options": ["(A) 3", "(B) 4"]},
            "2?\nA. 3\nB. 4\nAnswer with the letter of the right one.",
        ),
        (
            {"question": "2?", "choices": {"label": ["A", "B"], "text": ["x", "y"]}},
            "2?\nA. x\nB. y\nAnswer with the letter of the right one.",
        ),
        (
            {"question": "2?", "options": {"A": 3, "C": 4}},
            "2?\nA. 3\nC. 4\nAnswer with the letter of the right one.",
        ),
        ({"question": "2?\n(A) 3 (B) 4", "options": ["3", "4"]}, "2?\n(A) 3 (B) 4"),  # there already
        (
            {"question": "34?", "options": ["3", "4"]},
            "34?\nA. 3\nB. 4\nAnswer with the letter of the right one.",
        ),
        ({"question": "2?", "options": "A. 3 B. 4"}, "2?\nA. 3 B. 4"),
        ({"question": "2?", "A": "3", "B": "4"}, "2?\nA. 3\nB. 4\nAnswer with the letter of the right one."),
        ({"story": "Ann has 2.", "question": "Q?", "A": "3"}, "Ann has 2. Q?"),
    ],
)
def test_a_question_in_several_columns(row: dict[str, Any], question: str) -> None:
    assert read_question(row) == question


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"problem": ["Q"]}, r"its column `problem` is the list \['Q'\]: it must be a text"),
        ({"question": {"a": 1}}, "its column `question` is the dict"),
        ({"question": 5}, "its column `question` is int 5"),
        ({"question": "Q", "body": ["a"]}, "its column `body` is the list"),
        (
            {"question": "Q", "choices": [["a"], ["b"]]},
            "its column `choices` is the dict .* no list of texts",
        ),
        ({"question": "", "problem": None}, "neither `question` nor `problem`"),
        ({"question": float("nan")}, "neither `question` nor `problem`"),
        ({"body": "B"}, "neither `question` nor `problem`"),
    ],
)
def test_a_question_that_is_none(row: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_question(row)


@pytest.mark.parametrize(
    ("answer", "letter"),
    [(1, "B"), ("B", "B"), ("(B)", "B"), (r"\text{(B)}", "B"), ("4", "B"), (0, "A"), ("x^2", "C")],
)
def test_the_right_choice(answer: Any, letter: str) -> None:
    row = {"question": "2 + 2?", "choices": ["3", "4", "x^2"], "answer": answer}
    assert right_answer(row) == letter


@pytest.mark.parametrize("answer", [7, -1, "D", "5"])
def test_a_choice_that_is_not_there(answer: Any) -> None:
    with pytest.raises(ValueError, match="names none of A, B, C"):
        right_answer({"question": "2 + 2?", "choices": ["3", "4", "x^2"], "answer": answer})


def test_letters_that_are_part_of_a_choice_stay() -> None:
    assert read_choices({"choices": ["A. M. Turing", "K. Gödel"]}) == {"A": "A. M. Turing", "B": "K. Gödel"}
