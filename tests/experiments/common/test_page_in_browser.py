"""The page in a browser, from file://: it opens quickly with 20,000 samples, answers its user, runs nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import pages
from chromium import BINARY, MISSING, Chromium
from experiments.common.page.reports import write_report
from pages import HOSTILE, episode

pytestmark = [pytest.mark.slow, pytest.mark.skipif(BINARY is None, reason=MISSING)]

TASKS, SAMPLES = 2500, 8
THINKING = (
    "Let me see.\n<think> " + "one two three four five six seven. " * 20 + "</think>\n"
)  # 700 characters
# On a free machine 0.3 s until it can be used, and 1 s until the completions are there.
SECONDS_TO_READY, SECONDS_TO_COMPLETE = 2.0, 6.0
COUNT = "byId('count').textContent"


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with Chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """20,000 samples, of which task 7's are hostile in every text."""
    episodes = [
        episode(task, sample, HOSTILE if task == 7 else f"{THINKING}<answer> {task} x {sample} </answer>")
        for task in range(TASKS)
        for sample in range(SAMPLES)
    ]
    for each in episodes[7 * SAMPLES : 8 * SAMPLES]:
        each.observation = each.right_answer = each.turns[0].info["answer"] = HOSTILE
        each.turns[0].info["failure"] = HOSTILE
    return write_report(pages.evaluation(tmp_path_factory.mktemp("e"), episodes)).as_uri()


def opened(browser: Chromium, address: str) -> dict[str, float]:
    """Milliseconds until the page could be used, and until all completions were there."""
    browser.open("about:blank")
    browser.open(address)
    browser.until("document.documentElement?.dataset.complete")
    times = browser.run("JSON.stringify(document.documentElement.dataset)")
    return {name: float(value) for name, value in json.loads(times).items()}


def pressed(browser: Chromium, verdict: str) -> str:
    browser.run(f"document.querySelector('[data-verdict={verdict}]').click()")
    return browser.run(COUNT)


def searched(browser: Chromium, text: str, count: str) -> None:
    browser.run("byId('search').focus()")
    typed = f"byId('search').value = {json.dumps(text)}; byId('search').dispatchEvent(new Event('input'))"
    browser.run(typed)
    browser.until(f"{COUNT} === {json.dumps(count)}")
    browser.run("byId('search').blur()")


def test_it_opens_quickly_filters_and_searches(browser: Chromium, address: str) -> None:
    times = opened(browser, address)
    print(f"ready after {times['ready']:.0f} ms, all completions after {times['complete']:.0f} ms")
    assert times["ready"] < 1000 * SECONDS_TO_READY and times["complete"] < 1000 * SECONDS_TO_COMPLETE
    assert browser.run(COUNT) == "20,000 of 20,000"
    assert browser.run("document.querySelectorAll('.line').length") < 60, "rows in sight alone are elements"
    # Of 8 samples 4 are right; sample 3 is malformed.
    assert pressed(browser, "right") == "10,000 of 20,000"
    assert pressed(browser, "malformed") == "2,500 of 20,000"
    assert pressed(browser, "failed") == "0 of 20,000"
    assert "Nothing is like that" in browser.run("byId('detail').textContent")
    pressed(browser, "all")
    searched(browser, "<ANSWER> 1234 X 5", "1 of 20,000")
    detail = browser.run("byId('detail').innerText")
    assert (
        "1234 x 5" in detail and "thinking (701 characters)" in detail and "seven" not in detail
    )  # it is folded
    assert "2468" in detail and "prompt tokens\n3" in detail and "response tokens\n2" in detail
    searched(browser, "Twice 77?", "8 of 20,000")  # all samples of a task, by its question


def test_keys_a_task_together_and_a_link(browser: Chromium, address: str) -> None:
    opened(browser, address)
    for key in "jjjk":
        browser.press(key)
    assert "0 x 2" in browser.run("byId('detail').innerText")
    browser.press("t")
    assert browser.run("document.querySelectorAll('.card').length") == SAMPLES
    browser.press("/")
    assert browser.run("document.activeElement.id") == "search"
    browser.run("document.activeElement.blur()")
    browser.press("t")
    searched(browser, "<answer> 2400 x 3", "1 of 20,000")
    link = browser.run("document.querySelector('.actions a').href")
    opened(browser, link)  # as from another page
    assert "2400 x 3" in browser.run("byId('detail').innerText")
    assert (
        "2400 x 3" not in browser.run("byId('tall').textContent") and browser.run(COUNT) == "20,000 of 20,000"
    )
    chosen = browser.run("document.querySelector('.line.chosen').textContent")
    assert "#3" in chosen and "Twice 2400?" in chosen  # the list has scrolled there
    browser.run(
        "[...document.querySelectorAll('button')].find((b) => b.textContent === 'only this task').click()"
    )
    assert browser.run(COUNT) == "8 of 20,000"
    browser.run("byId('task').click()")
    assert browser.run(COUNT) == "20,000 of 20,000"


def test_the_selection_is_exported(browser: Chromium, address: str) -> None:
    opened(browser, address)
    searched(browser, "<answer> 77 x", "8 of 20,000")
    saved = browser.run(
        "(async () => { let blob; URL.createObjectURL = (made) => { blob = made; return '#'; };"
        "byId('export').click(); return await blob.text(); })()"
    )
    rows = [json.loads(line) for line in saved.splitlines()]
    assert [row["sample"] for row in rows] == [*range(8)] and {row["question"] for row in rows} == {
        "Twice 77?"
    }
    assert rows[3]["verdicts"] == ["wrong", "malformed"] and rows[3]["completion"].endswith(
        "<answer> 77 x 3 </answer>"
    )


def test_hostile_text_is_shown_and_runs_nothing(browser: Chromium, address: str) -> None:
    browser.events.clear()
    opened(browser, address)
    elements = browser.run("document.querySelectorAll('img, svg[onload], script').length")
    searched(browser, "window.pwned", "8 of 20,000")
    browser.press("t")
    shown = browser.run("byId('detail').textContent")
    assert "</script><script>window.pwned = 1</script><img src=x onerror='window.pwned = 1'>" in shown
    assert r"\x1b]52;c;aGk=\x07\x1b[31mred\u202edlrow\x00 [bold]b[/] \u2028 a`${window.pwned = 1}`" in shown
    assert not set("\x1b\x07\x00\u202e\u2028") & {*browser.run("document.body.textContent")}
    assert browser.run("document.querySelectorAll('img, svg[onload], script').length") == elements == 1
    assert browser.run("typeof window.pwned") == "undefined"
    assert browser.complaints() == [], "no script failed, and the policy had nothing to refuse"
    assert {url.partition("#")[0] for url in browser.requests()} <= {address, "about:blank"}


def test_the_policy_refuses_what_the_page_does_not_have(browser: Chromium, address: str) -> None:
    """The second wall: were text ever to become elements, it could neither run nor load anything."""
    opened(browser, address)
    browser.events.clear()
    browser.run(
        "document.body.insertAdjacentHTML('beforeend', `<img src='https://example.com/x.png' onerror='window.pwned=1'>"
        "<p onclick='window.pwned=1' style='color: red' id='hit'>x</p>`); byId('hit').click()"
    )
    browser.until("getComputedStyle(byId('hit')).color !== 'rgb(255, 0, 0)'")
    assert browser.run("typeof window.pwned") == "undefined"
    assert any("Content Security Policy" in complaint for complaint in browser.complaints())


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1300, 420])
def test_a_run_at_any_size(browser: Chromium, tmp_path: Path, width: int, scheme: str) -> None:
    browser.look(width, 800, scheme)
    times = opened(browser, write_report(pages.run(tmp_path / "r")).as_uri())
    assert times["complete"] < 1000 * SECONDS_TO_READY
    assert browser.run("document.querySelectorAll('figure svg polyline').length") >= 5
    assert browser.run("document.documentElement.scrollWidth") <= width, "nothing is wider than the window"
    ink, back = (
        browser.run(
            f"getComputedStyle(document.body).{name}.match(/\\d+/g).map(Number).reduce((a, b) => a + b)"
        )
        for name in ("color", "backgroundColor")
    )
    assert (ink < back - 300) if scheme == "light" else (ink > back + 300)
    browser.run("byId('set').selectedIndex = 2; byId('set').dispatchEvent(new Event('change'))")
    assert browser.run(COUNT) == "4 of 14"
