"""The only parser of model output in the project: knows tags, and nothing about tasks or tokens.

A response is free text with two kinds of blocks, `<think>...</think>` and `<answer>...</answer>`. The rules:

- Tags are literal: lower case, no attributes, no white space inside.
- `<think>` opens the reasoning and the next `</think>` ends it, so that a model which repeats a `<think>`
  already opened by its prompt is not lost. But where nested blocks are balanced, the outer end counts.
- An answer block runs from the last `<answer>` before an `</answer>` to it, both outside the reasoning.
- The answer is the last such block. A later `<answer>` that is never closed does not take it back.

An answer in LaTeX may stand in a box instead, which `extract_boxed` opens; where a data set's prompt asks for another
form of answers, `answer_by_mark` finds them. A message that calls a tool ends with a
`<tool>...</tool>` block, which `pending_tool_call` finds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

_TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_MAX_TAGS = 25_000  # a response with more has no answer; bounds the time to some 15 ms
_BOX_TOKEN = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])[ \t]*|\\.|[{}]", re.DOTALL)
_AFTER_CALL = re.compile(r"[^\w<>]*")
_BARE_BOX = re.compile(r"(?:\\[A-Za-z]+(?:\{[^{}]*\})*|[^\s${}\\])+")  # what `\boxed 5` boxes


class Response(NamedTuple):
    """What a response says: the parts without surrounding white space.

    Attributes:
        think: text of the first closed think block, or None.
        answer: text of the last complete answer block outside the reasoning, or None.
        well_formed: whether the response is exactly one think block, closed, then exactly one answer block,
            with only white space between and after them. Text before the think block is allowed (a prompt
            may have put it there), tags anywhere else are not, but for one repeated `<think>`: a prompt may have opened
            the block, and the model opened it again.
    """

    think: str | None
    answer: str | None
    well_formed: bool


def parse_response(text: str) -> Response:
    """Split a whole response, what the prompt had already opened included, into its parts in linear time."""
    tags = sorted(islice(_find_tags(text), _MAX_TAGS + 1))
    if len(tags) > _MAX_TAGS:
        return Response(None, None, False)

    think = answer = answer_before = None
    think_start = answer_start = None
    depth = 0  # think blocks opened and not closed; the reasoning itself lasts while think_start is set
    for start, tag in tags:
        if tag == "<think>":
            if depth == 0:
                answer_before = answer
            depth += 1
            if think_start is None:
                think_start = start + len(tag)
        elif tag == "</think>":
            if think_start is not None and think is None:
                think = text[think_start:start].strip()
            if think_start is None and depth > 0:
                answer = answer_before  # this closes an outer block: what came since was reasoning
            think_start = None
            depth = max(depth - 1, 0)
        elif think_start is not None:
            continue  # an answer tag inside the reasoning says nothing
        elif tag == "<answer>":
            answer_start = start + len(tag)
        elif answer_start is not None:
            answer = (answer_start, start)
            answer_start = None

    return Response(think, None if answer is None else text[slice(*answer)].strip(), _well_formed(text, tags))


def with_think(text: str) -> str:
    """A response of which nobody says how its prompt began it: one that ends reasoning goes on with it."""
    end = text.find("</think>")
    return f"<think>{text}" if end >= 0 and "<think>" not in text[:end] else text


def pending_tool_call(text: str) -> str | None:
    """What stands in the `<tool>...</tool>` block that a message ends with, stripped; None where it ends otherwise.

    Generation stops with the token that completes `</tool>`, which may bring white space or punctuation along.
    """
    end = text.rfind("</tool>")
    start = text.rfind("<tool>", 0, max(end, 0))
    if start < 0 or not _AFTER_CALL.fullmatch(text, end + len("</tool>")):
        return None
    return text[start + len("<tool>") : end].strip()


def _find_tags(text: str) -> Iterator[tuple[int, str]]:
    # str.find, not a regular expression: twenty times faster on a megabyte of "<".
    for tag in _TAGS:
        start = text.find(tag)
        while start >= 0:
            yield start, tag
            start = text.find(tag, start + len(tag))


def _well_formed(text: str, tags: list[tuple[int, str]]) -> bool:
    names = tuple(tag for _, tag in tags)
    if names == ("<think>", *_TAGS):  # a model repeated what its prompt had opened
        tags, names = tags[1:], names[1:]
    if names != _TAGS:
        return False
    (_, _), (think_end, _), (answer_start, _), (answer_end, _) = tags
    between = text[think_end + len("</think>") : answer_start]
    after = text[answer_end + len("</answer>") :]
    return not between.strip() and not after.strip()


def extract_boxed(text: str) -> str | None:
    r"""The content of the last complete `\boxed{...}` or `\fbox{...}`, without white space around it; None without one.

    Braces balance as in TeX, where `\{` and `\}` are characters like any other. Of nested boxes the inner one is the
    last. `\boxed 5` boxes what follows up to white space or a dollar sign. A later box that is never closed does not
    take it back. Linear time.
    """
    boxes = find_boxes(text)
    return boxes[-1].content if boxes else None


class Box(NamedTuple):
    """A box in a text: where it begins and ends, and what is in it, without white space around that."""

    start: int
    end: int
    content: str


def find_boxes(text: str) -> list[Box]:
    """All complete boxes, by the rules of `extract_boxed`; of nested ones the innermost."""
    boxes: list[Box] = []
    opened: list[
        tuple[int, int]
    ] = []  # for every open brace where its box and that's content begin; -1 without one
    position = last = 0
    while token := _BOX_TOKEN.search(text, position):
        position = token.end()
        if token[0] == "{":
            opened.append((-1, -1))
        elif token[0] == "}" and opened:
            start, content = opened.pop()
            if content >= last:
                last = content
                boxes.append(Box(start, position, text[content : token.start()].strip()))
        elif len(token[0]) > 2:  # a box
            if text.startswith("{", position):
                position += 1
                opened.append((token.start(), position))
            elif bare := _BARE_BOX.match(text, position):
                last, position = bare.span()
                boxes.append(Box(token.start(), position, bare[0]))
    return boxes


def answer_by_mark(text: str, mark: str) -> str | None:
    r"""The answer of a message that has no answer block, where its prompt asked for another form; None without one.

    It stands behind the reasoning: what follows the one `mark`, such as "####" or "Answer:", of the last line that is
    not empty; for the mark "\boxed" the last box, where there is no other.
    """
    if "<answer>" in text or ("<think>" in text and "</think>" not in text):
        return None
    text = text.rpartition("</think>")[2].rstrip()
    if mark == "\\boxed":
        contents = {box.content for box in find_boxes(text)}
        return contents.pop() if len(contents) == 1 else None
    _, *answers = text[text.rfind("\n") + 1 :].split(mark)
    return answers[0].strip() or None if len(answers) == 1 else None
