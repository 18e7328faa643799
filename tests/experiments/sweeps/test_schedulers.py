"""Who takes over whose policy: never by chance, and never to settings outside of the space."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from experiments.sweeps.results import write_line
from experiments.sweeps.schedulers import PairedPopulation, better, make_scheduler
from experiments.sweeps.space import parse

SPACE = parse({"training": {"lr": {"loguniform": [1e-6, 1e-2]}, "group_size": {"choice": [4, 8]}}})


def result(verdicts: str, **more: Any) -> dict[str, Any]:
    score = verdicts.count("1") / max(1, len(verdicts.replace("-", "")))
    return {"verdicts": verdicts, "score": score, "tokens": 1000, "iterations": 3, **more}


def test_a_donor_is_better_beyond_the_paired_interval() -> None:
    # 20 of 100 tasks more: difference 0.2, with two tasks added (20 - 0) / 102 = 0.196 +- 1.98 * 0.042: above 0.
    assert better(result("1" * 60 + "0" * 40), result("1" * 40 + "0" * 60))
    # 2 of 100: 0.0196 +- 1.98 * 0.0196: includes 0, however sure the ranking looks.
    assert not better(result("1" * 42 + "0" * 58), result("1" * 40 + "0" * 60))
    # The same scores as in the first line, on other tasks (60 of one's and 40 of the other's): 20 +- sqrt(102) tasks
    # at 1.98 standard errors just misses 0 with fewer in common.
    assert not better(result("1" * 55 + "0" * 45), result("0" * 55 + "1" * 45))
    assert not better(result("1" * 40 + "0" * 60), result("1" * 60 + "0" * 40))  # worse
    assert not better(result("----1111"), result("0000----"))  # nothing in common


def refuse_large(settings: dict[str, Any]) -> None:
    if settings["training.lr"] > 1e-3:
        raise ValueError("too large")


def trial(number: int, **settings: Any) -> Any:
    config = {"number": number, "seed": 100 + number, "settings": settings, "exchanged": False}
    return SimpleNamespace(config={"trial": config})


@pytest.fixture
def population(tmp_path: Path) -> PairedPopulation:
    return PairedPopulation(SPACE, "tokens", 1000, refuse_large, tmp_path / "lineage.jsonl", seed=0)


def test_exploration_is_within_the_space_and_what_the_checks_take(population: PairedPopulation) -> None:
    donor, target = trial(1, **{"training.lr": 1e-3, "training.group_size": 8}), trial(2)
    for _ in range(200):
        config, _ = population._get_new_config(target, donor)
        new = config["trial"]
        assert 1e-6 <= new["settings"]["training.lr"] <= 1e-3 and new["settings"]["training.group_size"] in (
            4,
            8,
        )
        # Tasks and samples stay the trial's own: the donor's would be drawn twice.
        assert (new["number"], new["seed"], new["exchanged"]) == (2, 102, True)
    assert target.config["trial"]["exchanged"] is False


def test_only_a_worse_trial_is_handed_a_donor(
    population: PairedPopulation, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By what the donor's checkpoint scored, which may be older than its last score."""
    verdicts = {"good": "1" * 60 + "0" * 40, "fair": "1" * 42 + "0" * 58, "poor": "1" * 40 + "0" * 60}
    found = {name: result(text) for name, text in verdicts.items()}
    late = result("1" * 100, tokens=1000 - 1001)  # more than a round behind
    last = {**found, "unsaved": None, "late": late}
    trials: dict[str, Any] = {
        name: with_checkpoint(i, name, metrics) for i, (name, metrics) in enumerate(last.items())
    }
    population._trial_state = {
        one: SimpleNamespace(last_result=result(verdicts.get(name, "1" * 100)))
        for name, one in trials.items()
    }  # type: ignore[assignment]
    exchanged: list[tuple[Any, Any, Any]] = []
    monkeypatch.setattr(
        population,
        "_exploit",
        lambda _, to, donor: exchanged.append(
            (to, donor, population._trial_state[donor].last_checkpoint.path)
        ),
    )
    good, fair, poor, unsaved, late = trials.values()
    population._checkpoint_or_exploit(poor, None, [fair, unsaved, late], [poor])
    population._checkpoint_or_exploit(good, None, [good, fair], [poor])
    assert exchanged == []
    for _ in range(2):  # the second time it has taken that checkpoint already
        population._checkpoint_or_exploit(poor, None, [good, fair], [poor])
    assert exchanged == [(poor, good, "good's")]
    # Of a sweep that is gone on with, the scheduler is made anew: what was taken is in the lineage.
    write_line(tmp_path / "lineage.jsonl", {"trial": 2, "donor": 0, "donor_tokens": 1000})
    states, first = population._trial_state, population._rng.random()
    population = PairedPopulation(SPACE, "tokens", 1000, refuse_large, tmp_path / "lineage.jsonl", seed=0)
    population._trial_state = states
    population._checkpoint_or_exploit(poor, None, [good, fair], [poor])
    assert len(exchanged) == 1 and population._rng.random() != first


def test_rungs_are_where_they_were_when_a_sweep_is_gone_on_with(tmp_path: Path) -> None:
    """Rungs at 1 to 8 rounds of 100 tokens; the better half of those that came to one goes on."""
    first = [{"tokens": 104, "score": 0.5}, {"tokens": 210, "score": 0.75}]
    for number, looks in enumerate((first, [{"tokens": 101, "score": 0.25}], [])):
        for look in looks:
            write_line(tmp_path / "results.jsonl", {"arm": "search", "number": number, **look})
    write_line(tmp_path / "results.jsonl", {"arm": "random", "number": 2, **first[1]})
    asha = make_scheduler(
        "asha", SPACE, unit="tokens", round_=100, budget=800, check=refuse_large, output=tmp_path, seed=0
    )
    asha.set_search_properties("score", "max")
    trials = [Named(trial_id=f"t{i}", config={"trial": {"number": i}}) for i in range(4)]
    controller: Any = None
    for one in trials:
        asha.on_trial_add(controller, one)
    (bracket,) = asha._brackets  # type: ignore[attr-defined]
    assert bracket._rungs == [(800, {}), (400, {}), (200, {"t0": 0.75}), (100, {"t0": 0.5, "t1": 0.25})]
    # The median at 100 tokens is 0.375, and then that of 0.25, 0.3, 0.5: 0.3.
    said = [
        asha.on_trial_result(controller, one, {"tokens": 100, "score": score})
        for one, score in zip(trials[2:], (0.3, 0.31), strict=True)
    ]
    assert said == ["STOP", "CONTINUE"]


def with_checkpoint(number: int, name: str, metrics: dict[str, Any] | None) -> Any:
    saved = metrics and SimpleNamespace(checkpoint=SimpleNamespace(path=f"{name}'s"), metrics=metrics)
    manager = SimpleNamespace(latest_checkpoint_result=saved)
    metadata = SimpleNamespace(checkpoint_manager=manager)
    return Named(run_metadata=metadata, config={"trial": {"number": number}})


class Named(SimpleNamespace):
    """By identity, as Tune's trials are."""

    __hash__ = object.__hash__


def test_an_exchange_is_written_down_with_its_interval(population: PairedPopulation, tmp_path: Path) -> None:
    states = [SimpleNamespace(last_result=result(v)) for v in ("1" * 40 + "0" * 60, "1" * 60 + "0" * 40)]
    target, donor = trial(2, **{"training.lr": 1e-6}), trial(1, **{"training.lr": 1e-3})
    new = {"trial": {"settings": {"training.lr": 8e-4}}}
    population._log_config_on_step(*states, target, donor, new)
    line = json.loads((tmp_path / "lineage.jsonl").read_text())
    assert (line["trial"], line["donor"], line["tokens"], line["donor_iterations"]) == (2, 1, 1000, 3)
    assert (line["settings_before"], line["settings"]) == ({"training.lr": 1e-6}, {"training.lr": 8e-4})
    assert line["difference"] == pytest.approx(0.2) and 0 < line["low"] < 0.2 < line["high"]
