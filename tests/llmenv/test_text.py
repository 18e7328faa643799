"""The parser of responses: blocks, order, boxes, and what it does with odd text."""

from __future__ import annotations

import time

import pytest

from llmenv.text import Response, answer_by_mark, extract_boxed, find_boxes, parse_response


def test_well_formed() -> None:
    text = "Let me solve this step by step.\n<think> 1 + 2 is 3 </think>\n<answer> 1 + 2 </answer>\n"
    assert parse_response(text) == Response("1 + 2 is 3", "1 + 2", True)


@pytest.mark.parametrize(
    "text",
    [
        "<think></think><answer></answer>",
        "any text before <think>a</think> \n\t<answer>b</answer> \n",
        "a < b <think>1 < 2 > 3</think>\u2003<answer>x</answer>\u00a0",
        # A prompt opened the block, and the model opened it again.
        "<think><think>a</think><answer>c</answer>",
        "<think>\n<think>\na\n</think>\n\n<answer>c</answer>\n",
        "Let me solve this step by step.\n<think><think> a</think><answer>c</answer>",
        "<think>\n\n\t<think></think><answer>c</answer>",
        "Sure. <think> <think>a < b</think> <answer>c</answer>",
        "<think>Let me solve this step by step.\n<think>a</think><answer>c</answer>",  # where the template opens it
    ],
)
def test_well_formed_oddities(text: str) -> None:
    assert parse_response(text).well_formed


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<answer>a</answer>",
        "<think>a</think>",
        "<think>a<answer>b</answer>",
        "<think>a</think><answer>b",
        "<think>a</think> so <answer>b</answer>",
        "<think>a</think><answer>b</answer> done",
        "<answer>b</answer><think>a</think>",
        "<think>a</think><answer>b</answer><answer>c</answer>",
        "<think>a</think><think>b</think><answer>c</answer>",
        "<think><think><think>a</think><answer>c</answer>",
        "<think><think>a</think></think><answer>c</answer>",
        "<think>a</think><answer>b</answer><think>",
        "<think><answer>a</answer><think>b</think><answer>c</answer>",
        "<think>maybe <answer>b</answer></think><answer>c</answer>",
        "</think><think>a</think><answer>c</answer>",
        "<THINK>a</THINK><answer>c</answer>",
        "< think >a</think><answer>c</answer>",
        "<think>a</think>\u200b<answer>c</answer>",  # a zero-width space is not white space
    ],
)
def test_not_well_formed(text: str) -> None:
    assert not parse_response(text).well_formed


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<answer>a</answer>", "a"),
        ("<answer>a</answer><answer> b </answer>", "b"),
        ("<answer>a</answer> and <answer>b", "a"),
        ("<answer>a<answer>b</answer>", "b"),
        ("<answer>a</answer></answer>", "a"),
        ("<answer></answer>", ""),
        ("<answer>a", None),
        ("a</answer>", None),
        ("</answer>a<answer>", None),
        ("<think>x <answer>a</answer>", None),
        ("<think>x <answer>a</answer></think>", None),
        ("<think>x <answer>a</think></answer>", None),
        ("<think>x</think><answer>a</answer>", "a"),
        ("<think>x</think><answer>a</answer><think>y<answer>b</answer>", "a"),
        ("<answer>a</answer><think>y<answer>b</answer></think>", "a"),
        ("<think>x<think>y</think><answer>a</answer>", "a"),  # the prompt's <think> repeated by the model
        ("<think>x<think>y</think><answer>a</answer>z</think>", None),  # balanced: all within the outer block
        ("<answer>a</answer><think>x<think>y</think><answer>b</answer>z</think>", "a"),
        ("<think>x</think><answer>a</answer></think>", "a"),  # a stray end tag closes nothing
        ("x</think><answer>a</answer>", "a"),
        ("<answer>1<think>x</think>2</answer>", "1<think>x</think>2"),
        ("<answer>1<think>x</answer>", None),
        ("<Answer>a</Answer>", None),
        ("<answer >a</answer>", None),
        ("<answer/>a</answer>", None),
        ("&lt;answer&gt;a&lt;/answer&gt;", None),
    ],
)
def test_answer(text: str, answer: str | None) -> None:
    assert parse_response(text).answer == answer


def test_think_is_the_first_closed_block() -> None:
    assert parse_response("<think> a </think><think>b</think>").think == "a"
    assert parse_response("<think> a").think is None


@pytest.mark.parametrize(
    "unit", ["<think>", "</think>", "<answer>", "</answer>", "<answer></answer>", "<", "</", "a"]
)
def test_time_is_linear(unit: str) -> None:
    text = unit * (1_000_000 // len(unit))
    start = time.process_time()
    assert not parse_response(text).well_formed
    assert time.process_time() - start < 0.05


def test_many_blocks() -> None:
    wrong = "<answer> wrong </answer>\n" * 10_000
    assert parse_response(wrong + "<answer> right </answer>").answer == "right"


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"so it is $\boxed{5}$.", "5"),
        (r"\boxed{\frac{1}{2}} of them", r"\frac{1}{2}"),
        (r"\fbox{ 3 }", "3"),
        (r"\boxed {4}", "4"),
        (r"\boxed{}", ""),
        ("\\boxed{1\n+ 2}", "1\n+ 2"),
        # TeX's escaped braces do not count, its line break `\\` escapes nothing after it.
        (r"\boxed{\left\{x\right.}", r"\left\{x\right."),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\begin{pmatrix} 1 \\{2} \end{pmatrix}}", r"\begin{pmatrix} 1 \\{2} \end{pmatrix}"),
        # Without braces: up to white space or a dollar sign.
        (r"$\boxed 5$", "5"),
        (r"\boxed5 apples", "5"),
        (r"$\boxed \frac{3}{5}$", r"\frac{3}{5}"),
        (r"\text{so {\boxed{-1}} it is}", "-1"),
        (r"{\boxed 5}", "5"),
        # The last one that is complete.
        (r"\boxed{1} and \boxed{2}", "2"),
        (r"\boxed{1} and \fbox{2}", "2"),
        (r"\boxed{1} and \boxed{2", "1"),
        (r"\boxed{x = \boxed{7}}", "7"),
        (r"\boxed{\boxed{7} apples}", "7"),
        (r"\boxed{5}}} {", "5"),
        ("", None),
        ("5", None),
        (r"\boxed", None),
        (r"\boxed{5", None),
        (r"\boxed}5{", None),
        (r"\boxedtext{5}", None),
        (r"boxed{5}", None),
    ],
)
def test_extract_boxed(text: str, content: str | None) -> None:
    assert extract_boxed(text) == content


@pytest.mark.parametrize(
    "unit", [r"\boxed{", r"\boxed", r"\boxed\a{", "{", "}", "{}", "\\", " ", r"\boxed{5}"]
)
def test_opening_a_box_takes_linear_time(unit: str) -> None:
    text = r"\boxed" + unit * (1_000_000 // len(unit))
    start = time.process_time()
    extract_boxed(text)
    assert time.process_time() - start < 5.0  # under 1 s; minutes if the time were quadratic


@pytest.mark.parametrize(
    ("text", "contents"),
    [
        (r"$\boxed{1}$ and $\boxed{-2}.$", ["1", "-2"]),
        (r"\boxed{x = \boxed{7}} \boxed 5$", ["7", "5"]),
        (r"\fbox{ \{1, 2\} } \boxed{", [r"\{1, 2\}"]),
        (r"{\boxed{\frac{1}{2}}}\boxed{}", [r"\frac{1}{2}", ""]),
        ("none", []),
    ],
)
def test_all_boxes(text: str, contents: list[str]) -> None:
    boxes = find_boxes(text)
    assert [box.content for box in boxes] == contents
    assert all(text[box.start] == "\\" and box.content in text[box.start : box.end] for box in boxes)


@pytest.mark.parametrize(
    ("text", "mark", "answer"),
    [
        ("<think>48 + 24</think>\n#### 72", "####", "72"),
        ("so\n#### 1,200\n", "####", "1,200"),
        ("x\nAnswer: 5", "Answer:", "5"),
        (r"so $\boxed{3}$.", r"\boxed", "3"),
        (r"it is $\boxed{3}$: \boxed{3}", r"\boxed", "3"),
        (r"<think>\boxed{4}</think> it is \boxed{3}", r"\boxed", "3"),
        # Not where something follows, two are offered, the reasoning goes on, or a block has been begun.
        ("#### 72\nor 73", "####", None),
        ("#### 72 #### 73", "####", None),
        (r"\boxed{3} or \boxed{4}", r"\boxed", None),
        ("<think>#### 72", "####", None),
        ("<think>#### 72</think>", "####", None),
        ("<answer>\n#### 72", "####", None),
        ("####", "####", None),
        ("72", "####", None),
        ("", "####", None),
    ],
)
def test_an_answer_behind_a_mark(text: str, mark: str, answer: str | None) -> None:
    assert answer_by_mark(text, mark) == answer
