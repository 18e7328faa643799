"""The record of an episode: arrays that travel well, and what it sums up."""

from __future__ import annotations

import pickle

import numpy as np

from llmenv.episode import TextEpisode, Turn, derive_seed
from llmenv.samplers.sampler import Completion


def test_sequences_become_arrays_and_arrays_stay_the_same() -> None:
    turn = Turn(prompt_ids=[1, 2], response_ids=[3], logps=[-0.1])
    completion = Completion([3], [-0.1], "stop", 0)
    for ids in (turn.prompt_ids, turn.response_ids, completion.token_ids, Turn([1]).response_ids):
        assert ids.dtype == np.int32
    for logps in (turn.logps, completion.logps, Turn([1]).logps):
        assert logps.dtype == np.float32
    assert Turn(turn.prompt_ids).prompt_ids is turn.prompt_ids
    assert Turn([1], completion.token_ids, completion.logps).logps is completion.logps


def test_records_compare_by_identity() -> None:
    """Arrays would have == raise, and `in` with it."""
    one, other = (TextEpisode(0, 0, [Turn([1, 2])]) for _ in range(2))
    assert one == one and one != other
    assert other in [one, other] and one.turns[0] not in other.turns


def test_a_sample_travels_in_eight_bytes_a_token_and_a_prompt_in_four_once_a_group() -> None:
    """16 samples of 1,000 response tokens, with one prompt of 500: 16 * 8,000 + 2,000 bytes, and names.

    As lists of numbers they would take 12 bytes a token, a prompt of its own each: 16 * (12,000 + 1,500).
    """
    prompt = np.arange(1000, 1500, dtype=np.int32)
    episodes = [TextEpisode(0, i, [Turn(prompt, list(range(300, 1300)), [-0.1] * 1000)]) for i in range(16)]
    message = pickle.dumps(episodes, protocol=5)
    assert 0 < len(message) - 130_000 < 16 * 400
    assert len({id(episode.turns[0].prompt_ids) for episode in pickle.loads(message)}) == 1


def test_derived_seeds_depend_on_every_key_and_on_their_order() -> None:
    keys = [(1, 2, 3), (3, 2, 1), (1, 2, 4), (1, 3, 3), (2, 2, 3)]
    seeds = {derive_seed(*key) for key in keys}
    assert len(seeds) == len(keys)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(1, 2, 3) == derive_seed(1, 2, 3)


def test_an_episode_sums_up_its_turns() -> None:
    turns = [
        Turn(prompt_ids=[1], response_ids=[2, 3], reward=0.25, finish_reason="stop"),
        Turn(prompt_ids=[4], response_ids=[5], reward=1.0, finish_reason="length"),
    ]
    episode = TextEpisode(0, 0, turns)
    assert episode.token_ids.tolist() == [1, 2, 3, 4, 5]
    assert (episode.total_reward, episode.response_length, episode.hit_length_cap) == (1.25, 3, True)
    assert (episode.env_steps(), episode.agent_steps(), episode.valid) == (2, 2, True)
    assert not TextEpisode(0, 0, error="lost").valid
    assert not TextEpisode(0, 0).hit_length_cap
    assert TextEpisode(0, 0).token_ids.tolist() == []
