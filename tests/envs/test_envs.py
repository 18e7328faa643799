"""One suite over every registered environment of this package.

A new environment joins by its registration and one line in `RIGHT_ANSWER`.
"""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import gymnasium as gym
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

import envs  # noqa: F401 - registers the environments
from llmenv.env import TaskEnv, TextSpace

OURS = sorted(id for id, spec in gym.registry.items() if str(spec.entry_point).startswith("envs."))
IDS = [id for id in OURS if id != "Mixture-v0"]  # which is made of the others, and has tests of its own
RIGHT_ANSWER: dict[str, Callable[[TaskEnv], str]] = {  # of the current task
    "Countdown-v0": lambda env: env.task.solution,
    "CountdownTool-v0": lambda env: env.task.solution,
    "GuessNumber-v0": lambda env: str(env.task.number),
    "Multiplication-v0": lambda env: str(env.task.a * env.task.b),
    "Dataset-v0": lambda env: str(env.task.truth),
    "ReasoningGym-v0": lambda env: env.task.answer,
    "GSM8K-v0": lambda env: env.task.answer,
    "MATH-v0": lambda env: env.task.answer,
}
KWARGS: dict[str, dict[str, Any]] = {
    "GSM8K-v0": {"data": "sample"},
    "MATH-v0": {"data": "sample"},
    "ReasoningGym-v0": {"dataset": "chain_sum"},
}


ROW_OPTIONS: list[dict[str, Any]] = [
    {"index": -1},
    {"index": 10**6},
    {"index": None},
    {"index": 0, "more": 1},
    {"a": 1},
]
COUNTDOWN_OPTIONS: list[dict[str, Any]] = [
    {"numbers": [1, 2]},
    {"target": 3},
    {"numbers": [1, 2], "target": 3, "more": 4},
    {"numbers": [], "target": 3},
    {"numbers": [1, 2.0], "target": 3},
    {"numbers": [1, "2"], "target": 3},
    {"numbers": 12, "target": 3},
    {"numbers": [1, 2], "target": None},
]
BAD_OPTIONS: dict[str, list[dict[str, Any]]] = {
    **dict.fromkeys(("Countdown-v0", "CountdownTool-v0"), COUNTDOWN_OPTIONS),
    "GuessNumber-v0": [
        {"low": 1, "high": 15},
        {"low": 1, "high": 15, "number": 7, "more": 1},
        {"low": 1, "high": 15, "number": 16},
        {"low": 1, "high": 15, "number": 7.0},
        {"low": "1", "high": 15, "number": 7},
        {"low": None, "high": 15, "number": 7},
    ],
    "Multiplication-v0": [
        {"a": 1},
        {"a": 1, "b": 2, "c": 3},
        {"a": 1, "b": 2.0},
        {"a": "1", "b": 2},
        {"a": None, "b": 2},
    ],
    **dict.fromkeys(("Dataset-v0", "GSM8K-v0", "MATH-v0"), ROW_OPTIONS),
    "ReasoningGym-v0": [options for options in ROW_OPTIONS if options != {"index": 10**6}],
}


@pytest.fixture(scope="module", autouse=True)
def dataset(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Rows for Dataset-v0: 24 products to train on, 24 others held out."""
    folder = tmp_path_factory.mktemp("data")
    for split, factors in (("train", range(100, 124)), ("test", range(200, 224))):
        rows = [
            {
                "data_source": "multiply",
                "prompt": [{"role": "user", "content": f"{n} * 7 ="}],
                "reward_model": {"ground_truth": 7 * n},
            }
            for n in factors
        ]
        (folder / f"{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    KWARGS["Dataset-v0"] = {"data": str(folder)}


def make(env_id: str, **kwargs: Any) -> gym.Env:
    return gym.make(env_id, **KWARGS.get(env_id.removeprefix("envs:"), {}), **kwargs)


def respond(env: TaskEnv, answer: str) -> str:
    return f"{env.assistant_prefix} hm </think>\n<answer> {answer} </answer>"


@pytest.fixture(params=IDS)
def env_id(request: pytest.FixtureRequest) -> str:
    if request.param == "ReasoningGym-v0":
        pytest.importorskip("reasoning_gym")
    return request.param


@pytest.fixture
def env(env_id: str) -> TaskEnv:
    return make(env_id).unwrapped


def test_every_environment_is_here() -> None:
    assert set(IDS) == set(RIGHT_ANSWER) == set(BAD_OPTIONS)


def test_api(env_id: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(make(env_id).unwrapped)
        check_env(make(f"envs:{env_id}").unwrapped)


@pytest.fixture(scope="module")
def questions_elsewhere() -> dict[str, str]:
    """What each environment asks in a process that imports nothing but Gymnasium."""
    code = (
        "import gymnasium, json, sys\n"
        "make = lambda id, kwargs: gymnasium.make(f'envs:{id}', **kwargs)\n"
        "kwargs = json.loads(sys.argv[1])\n"
        "print(json.dumps({id: make(id, kwargs[id]).reset(seed=7)[0] for id in kwargs}))"
    )
    ids = [id for id in IDS if id != "ReasoningGym-v0" or find_spec("reasoning_gym")]
    kwargs = json.dumps({id: KWARGS.get(id, {}) for id in ids})
    return json.loads(subprocess.check_output([sys.executable, "-c", code, kwargs], text=True))


def test_gymnasium_imports_the_package_by_itself(env_id: str, questions_elsewhere: dict[str, str]) -> None:
    # One seed, one task, in any process.
    assert questions_elsewhere[env_id] == make(env_id).reset(seed=7)[0]


def test_import_is_light() -> None:
    heavy = ("torch", "ray", "vllm", "transformers", "sympy", "math_verify", "datasets", "pandas", "pyarrow")
    code = f"import envs, sys; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_a_seed_fixes_the_task(env_id: str) -> None:
    first, second = make(env_id), make(env_id)
    second.reset(seed=3)  # another past does not matter
    second.unwrapped.np_random.random(5)
    tasks = []
    for seed in range(20):
        assert first.reset(seed=seed) == second.reset(seed=seed)
        assert first.unwrapped.task == second.unwrapped.task
        tasks.append(first.unwrapped.task)
    num_tasks = first.unwrapped.num_tasks  # of a data set, 24 or more: some of 20 draws meet
    assert len(set(tasks)) > (15 if num_tasks is None else 8)
    first.reset(seed=0), second.reset(seed=0)
    assert [first.reset() for _ in range(5)] == [second.reset() for _ in range(5)]


def test_the_splits_differ(env_id: str) -> None:
    questions = {
        split: {make(env_id, split=split).reset(seed=seed)[0] for seed in range(50)}
        for split in ("train", "test")
    }
    assert not questions["train"] & questions["test"]


def test_observations_and_prompts(env: TaskEnv) -> None:
    for seed in range(20):
        question, info = env.reset(seed=seed)
        assert question and question in env.observation_space
        assert set(info) == {"system", "assistant_prefix"}
        assert respond(env, RIGHT_ANSWER[env.spec.id](env)) in env.action_space
        assert env.step("")[0] in env.observation_space


def test_a_known_solution_scores_1(env: TaskEnv) -> None:
    for seed in range(50):
        env.reset(seed=seed)
        answer = RIGHT_ANSWER[env.spec.id](env)
        _, reward, terminated, truncated, info = env.step(respond(env, answer))
        assert (reward, terminated, truncated) == (1.0, True, False)
        assert info == {"correct": True, "well_formed": True, "answer": answer, "failure": None}


def test_the_right_answer_of_the_records_is_right(env: TaskEnv) -> None:
    assert env.right_answer is None
    for seed in range(10):
        env.reset(seed=seed)
        assert env.right_answer is not None
        info = env.step(respond(env, env.right_answer))[-1]
        assert info["correct"]


@pytest.mark.parametrize("scale", ["default", "tinyzero"])
def test_other_responses_score_what_the_docstring_says(env_id: str, scale: str) -> None:
    env = make(env_id, reward=scale).unwrapped
    tinyzero = scale == "tinyzero"

    def outcome(text: Callable[[str], str]) -> tuple[float, bool, bool, bool]:
        env.reset(seed=1)
        _, reward, _, _, info = env.step(text(RIGHT_ANSWER[env_id](env)))
        assert isinstance(reward, float) and info["failure"]
        return reward, info["correct"], info["well_formed"], info["answer"] is not None

    assert outcome(lambda right: "") == (0.0, False, False, False)
    assert outcome(lambda right: "\x00 garbage 🙂 </answer><answer>") == (0.0, False, False, False)
    assert outcome(lambda right: right) == (0.0, False, False, False)
    assert outcome(lambda right: respond(env, "garbage")) == (0.1, False, True, True)
    assert outcome(lambda right: f"<answer>{right}") == (0.0, False, False, False)
    assert outcome(lambda right: "<answer>garbage</answer>") == (0.1 if tinyzero else 0.0, False, False, True)
    assert outcome(lambda right: f"<answer>{right}</answer>") == (1.0 if tinyzero else 0.1, True, False, True)


def test_bad_options_name_the_remedy(env_id: str) -> None:
    for options in BAD_OPTIONS[env_id]:
        env = make(env_id)
        with pytest.raises(ValueError, match="give options="):
            env.reset(options=options)
        with pytest.raises(gym.error.ResetNeeded):
            env.unwrapped.step("")


def test_step_belongs_to_an_episode(env_id: str) -> None:
    for env in (make(env_id), make(env_id).unwrapped):
        with pytest.raises(gym.error.ResetNeeded):
            env.step("")
        env.reset(seed=0)
        env.step("")
        with pytest.raises(gym.error.ResetNeeded):
            env.step("")
    env.reset()
    with pytest.raises(TypeError, match="must be a str"):
        env.step(b"bytes")


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_vector(env_id: str, mode: str) -> None:
    options = {"autoreset_mode": AutoresetMode.SAME_STEP} | (
        {"shared_memory": False} if mode == "async" else {}
    )
    vector = gym.make_vec(
        env_id, num_envs=2, vectorization_mode=mode, vector_kwargs=options, **KWARGS.get(env_id, {})
    )
    single = [make(env_id).unwrapped for _ in range(2)]
    questions, info = vector.reset(seed=5)
    assert list(questions) == [env.reset(seed=5 + i)[0] for i, env in enumerate(single)]
    assert list(info["assistant_prefix"]) == [env.assistant_prefix for env in single]
    for _ in range(3):  # every step is judged, and answers with the next question
        texts = (respond(single[0], RIGHT_ANSWER[env_id](single[0])), "")
        questions, rewards, terminated, truncated, info = vector.step(texts)
        assert list(rewards) == [1.0, 0.0] and all(terminated) and not any(truncated)
        assert list(info["final_info"]["correct"]) == [True, False]
        assert list(questions) == [env.reset()[0] for env in single]
    vector.close()


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_vector_with_gymnasiums_default_autoreset(env_id: str, mode: str) -> None:
    options = {"shared_memory": False} if mode == "async" else {}
    vector = gym.make_vec(
        env_id, num_envs=2, vectorization_mode=mode, vector_kwargs=options, **KWARGS.get(env_id, {})
    )
    vector.reset(seed=5)
    observations, _, terminated, _, info = vector.step(("", ""))
    assert list(observations) == ["", ""] and all(terminated) and not any(info["correct"])
    questions, rewards, terminated, _, _ = vector.step(("ignored", "ignored"))
    assert all(questions) and not any(rewards) and not any(terminated)
    vector.close()


def test_pickling(env: TaskEnv) -> None:
    env.reset(seed=4)
    copy = pickle.loads(pickle.dumps(env))
    text = respond(env, RIGHT_ANSWER[env.spec.id](env))
    assert copy.step(text) == env.step(text)
    assert copy.reset() == env.reset()


def test_spec_survives_json(env_id: str) -> None:
    spec = make(env_id, split="test").spec
    assert gym.make(gym.envs.registration.EnvSpec.from_json(spec.to_json())).unwrapped.split == "test"


def test_text_space() -> None:
    space = TextSpace(max_length=10, seed=0)
    assert "" in space and "é\ud800🙂\x00" in space and "a" * 10 in space
    assert "a" * 11 not in space and b"a" not in space and 1 not in space and None not in space
    samples = [space.sample() for _ in range(100)]
    assert all(sample in space for sample in samples) and len(set(samples)) > 50
    again = TextSpace(max_length=10, seed=0)
    assert samples == [again.sample() for _ in range(100)]
    assert space == TextSpace(10) != TextSpace(11)
    assert space.from_jsonable(space.to_jsonable(samples)) == samples
    assert pickle.loads(pickle.dumps(space)) == space
    with pytest.raises(ValueError, match="max_length"):
        TextSpace(-1)
    with pytest.raises(ValueError, match="mask"):
        space.sample(mask="a")
