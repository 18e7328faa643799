"""Shares are exact and a function of the update; a curriculum moves with hysteresis, and goes on where it was."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from algorithms.curriculum import Curriculum, Levels, dealt, read_levels
from algorithms.tasks import refill_requests
from llmenv.evaluation.tasks import Source

SOURCES = [Source("easy", 0.5, None), Source("rows", 0.3, 7), Source("hard", 0.2, None)]
LEVELS = Levels([{"easy": 1}, {"easy": 1, "rows": 1}, {"hard": 1}], raise_at=0.75, lower_at=0.25, window=2)


def test_the_first_places_by_hand() -> None:
    """Due at (k + 1/2) / share: 1, 3, 5, ... for 1/2; 5/3, 5, ... for 0.3; 2.5, 7.5, ... for 0.2."""
    assert dealt([0.5, 0.3, 0.2], 0, 7) == [(0, 0), (1, 0), (2, 0), (0, 1), (0, 2), (1, 1), (0, 3)]


@pytest.mark.parametrize("seed", range(20))
def test_any_place_is_known_without_those_before_it_and_shares_are_exact(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.ones(rng.integers(1, 6)))
    whole = dealt(shares, 0, 400)
    counts = [0] * len(shares)
    for place, (chosen, before) in enumerate(whole):
        assert before == counts[chosen]
        counts[chosen] += 1
        assert max(abs(np.array(counts) - shares * (place + 1))) < 1.5
    for start in (1, 37, 256, 399):
        assert dealt(shares, start, 400 - start) == whole[start:]


def test_an_iterations_groups_are_a_function_of_the_update() -> None:
    curriculum = Curriculum(SOURCES, 10)
    for update in (3, 0, 7):
        parts = Counter(source.part for source, _ in curriculum.deal(update))
        assert parts == {"easy": 5, "rows": 3, "hard": 2}
    rows = [
        place for update in range(5) for source, place in curriculum.deal(update) if source.part == "rows"
    ]
    assert rows == list(range(15))  # one after the other


@pytest.mark.parametrize(("parts", "prompts", "rounds"), [(2, 32, 10), (5, 16, 10), (3, 16, 3), (1, 4, 2)])
def test_refills_are_of_every_part_alike(parts: int, prompts: int, rounds: int) -> None:
    """Of one refill an update, whatever the sizes: their phase is not the same at every update."""
    curriculum = Curriculum([Source(str(i), 1 / parts, None) for i in range(parts)], prompts)
    config: Any = SimpleNamespace(prompts_per_iteration=prompts, group_size=4, root_seed=0)
    most = prompts * (rounds - 1)
    found: Counter[str] = Counter()
    for update in range(300):
        (request,) = refill_requests(config, curriculum, update, range(prompts, prompts + 1), most)
        found[(request.options or {})["part"]] += 1
    assert all(abs(found[str(i)] - 300 / parts) < 60 for i in range(parts)), found


def test_levels_move_with_hysteresis() -> None:
    curriculum = Curriculum(SOURCES, 4, LEVELS)
    assert [source.part for source, _ in curriculum.deal(0)] == ["easy"] * 4
    found = []
    for update, accuracy in enumerate([0.9, 0.5, 1.0, 0.7, 0.7, 0.3, 0.25, float("nan"), 0.2, 0.1]):
        moved = curriculum.learn(accuracy, update)
        found.append((curriculum.level, moved))
    # 0.9 alone is no window; (0.9, 0.5) is below 0.75; (0.5, 1) is at it. Then (0.7, 0.7), (0.7, 0.3), (0.3, 0.25)
    # lie between the bounds, a NaN counts for nothing, (0.25, 0.2) is low; a window is not over before it is full.
    levels = [0, 0, 1, 1, 1, 1, 1, 1, 0, 0]
    assert [level for level, _ in found] == levels
    assert [moved for _, moved in found] == [i in (2, 8) for i in range(10)]


def test_a_state_of_more_levels_is_refused_in_words() -> None:
    curriculum = Curriculum(SOURCES, 4, LEVELS)
    state = {**curriculum.get_state(), "level": len(LEVELS.levels)}
    with pytest.raises(
        ValueError, match=f"stood at level {len(LEVELS.levels)}, and training.curriculum has no such"
    ):
        curriculum.set_state(state)
    with pytest.raises(ValueError, match="no such level any more"):
        Curriculum(SOURCES, 4).set_state({**state, "level": 1})


def test_rows_are_walked_on_through_levels_and_resumptions() -> None:
    def walk(states: bool) -> list[tuple[str | None, int]]:
        curriculum, seen = Curriculum(SOURCES, 4, LEVELS), []
        for update in range(9):
            if states:  # as a checkpoint would
                kept, curriculum = curriculum.get_state(), Curriculum(SOURCES, 4, LEVELS)
                curriculum.set_state(kept)
            seen += [(source.part, place) for source, place in curriculum.deal(update)]
            curriculum.learn([1.0, 1.0, 0.5, 1.0, 1.0, 0.0, 0.0, 0.5, 0.5][update], update)
        return seen

    seen = walk(states=False)
    assert walk(states=True) == seen
    for part in ("easy", "rows", "hard"):
        places = [place for name, place in seen if name == part]
        assert places == list(range(len(places))) != []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"levels": [{"easy": 1}]}, "two levels or more"),
        ({"levels": [{"easy": 1}, {"hard": 1}], "raise_at": 0.2}, "lower_at=0.2 must be below raise_at=0.2"),
        ({"levels": [{"easy": 1}, {"hard": 1}], "window": 0}, "window must be a number of iterations"),
        ({"level": []}, "curriculum must have levels"),
        (
            {"levels": [{"easy": 1}, {"harder": 1}]},
            r"names \['harder'\]; the environment's parts are easy, rows",
        ),
        ({"levels": [{"easy": 0}, {"hard": 1}]}, "weights above 0"),
    ],
)
def test_what_is_no_curriculum_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Curriculum(SOURCES, 4, read_levels(settings))
