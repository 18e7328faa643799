"""What a sweep may try: ranges as they are written, drawn, stepped in and refused."""

from __future__ import annotations

import math
from itertools import islice
from typing import Any

import numpy as np
import pytest

from experiments.sweeps.space import FACTORS, MOST_CORNERS, Axis, parse, with_settings


def of(value: Any) -> Axis:
    (axis,) = parse({"training": {"lr": value}}).axes
    return axis


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"loguniforms": [1e-6, 1e-4]}, "no range 'loguniforms' (did you mean"),
        ({"loguniform": [0, 1e-4]}, "must begin above 0"),
        ({"uniform": [1, 1]}, "must begin below its end"),
        ({"uniform": [2, 1]}, "must begin below its end"),
        ({"uniform": [1, "x"]}, "two numbers"),
        ({"uniform": [1, 2, 3]}, "two numbers"),
        ({"uniform": [0, math.inf]}, "two numbers"),
        ({"randint": [1, 2.5]}, "two whole numbers"),
        ({"choice": []}, "takes a list"),
        ({"choice": 4}, "takes a list"),
        ({"choice": [4, 4]}, "a value twice"),
        ({"choice": [4], "grid": [8]}, "a range is one of"),
        ({"uniform": [0, 1], "default": 2}, "the default 2 is not in"),
        (1e-4, "nothing to search"),
    ],
)
def test_what_means_nothing_is_refused(value: Any, says: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse({"training": {"lr": value}})
    assert says in str(caught.value)


def test_the_rest_of_a_preset_is_the_base() -> None:
    space = parse(
        {
            "environment": {"env_config": {"digits": {"choice": [1, 2]}, "split": "train"}},
            "training": {"group_size": 8, "lr": {"loguniform": ["1e-6", "1e-4"], "default": "1e-5"}},
        }
    )
    assert space.base == {"environment": {"env_config": {"split": "train"}}, "training": {"group_size": 8}}
    assert [axis.path for axis in space.axes] == ["environment.env_config.digits", "training.lr"]
    assert space.axes[1].values == (1e-6, 1e-4)
    whole = with_settings(space.base, {"environment.env_config.digits": 2, "training.lr": 3e-5})
    assert whole == {
        "environment": {"env_config": {"split": "train", "digits": 2}},
        "training": {"group_size": 8, "lr": 3e-5},
    }
    assert space.base["environment"] == {"env_config": {"split": "train"}}
    with pytest.raises(ValueError, match=r"env_config\.digits has no default"):
        space.defaults()


def test_draws_cover_the_grid_and_fill_the_range() -> None:
    space = parse({"training": {"lr": {"loguniform": [1e-6, 1e-2]}, "group_size": {"grid": [4, 8]}}})
    drawn = list(islice(space.draws(0), 400))
    assert drawn == list(islice(space.draws(0), 400)) != list(islice(space.draws(1), 400))
    assert [point["training.group_size"] for point in drawn] == [4, 8] * 200
    decades = np.floor(np.log10([point["training.lr"] for point in drawn])).astype(int)
    # Four decades, as likely as each other: 100 each, with a standard deviation of sqrt(400 * 1/4 * 3/4) = 8.7.
    assert all(65 < (decades == decade).sum() < 135 for decade in (-6, -5, -4, -3))


def test_randint_has_both_ends() -> None:
    rng = np.random.default_rng(0)
    assert {of({"randint": [1, 3]}).draw(rng) for _ in range(100)} == {1, 2, 3}


@pytest.mark.parametrize(
    "value",
    [{"loguniform": [1e-6, 1e-2]}, {"uniform": [0.0, 0.1]}, {"randint": [1, 9]}, {"choice": [4, 8, 16]}],
)
def test_exploration_stays_within_the_space(value: Any) -> None:
    """From an end, a thousand steps: Tune's own would have left it after one."""
    axis, rng = of(value), np.random.default_rng(0)
    at = axis.values[-1]
    for _ in range(1000):
        at = axis.explore(at, rng)
        assert axis.holds(at) and type(at) is type(axis.values[0])


def test_exploration_steps_to_a_neighbour_or_draws() -> None:
    axis, rng = of({"uniform": [0.0, 100.0]}), np.random.default_rng(0)
    found = [axis.explore(10.0, rng) for _ in range(2000)]
    stepped = [value for value in found if value in (10 * FACTORS[0], 10 * FACTORS[1])]
    assert 0.7 < len(stepped) / len(found) < 0.8  # three quarters
    lists = of({"choice": [1, 2, 3, 4]})
    # From 1 a step goes to 1 or 2 (3/8 each), a draw anywhere (1/16 each): 3 has 1/16 of 2000 = 125, 4 as well.
    counts = np.bincount([lists.explore(1, rng) for _ in range(2000)], minlength=5)
    assert 85 < counts[3] < 165 and 85 < counts[4] < 165 and 800 < counts[1] < 950


def test_corners_are_all_combinations_of_ends_where_they_are_few() -> None:
    space = parse({"training": {"lr": {"uniform": [0.0, 1.0]}, "group_size": {"choice": [2, 4, 8]}}})
    corners = [(c["training.lr"], c["training.group_size"]) for c in space.corners()]
    assert corners == [(0.0, 2), (0.0, 4), (0.0, 8), (1.0, 2), (1.0, 4), (1.0, 8)]
    many = parse({"training": {f"x{i}": {"uniform": [0, 1]} for i in range(12)}})  # 4096 corners
    found = list(many.corners())
    assert len(found) == 2 * 12 * 2 <= MOST_CORNERS
    assert all({c[f"training.x{i}"] for c in found} == {0, 1} for i in range(12))
