"""A run with a chat template: what it opens, where responses end, and what its policy is exported with."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from llmenv.models.names import load_tokenizer
from support import small_config

TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|stop|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% if thinking %}<think>\n{% endif %}{% endif %}"
)


@pytest.fixture
def folder(model_folder: str, tmp_path: Path) -> str:
    """A model with a chat template, and a token at the end of a message that none of its files names as one."""
    folder = shutil.copytree(model_folder, tmp_path / "model")
    tokenizer = load_tokenizer(model_folder)
    tokenizer.chat_template = TEMPLATE.replace("<|stop|>", "<|pad|>")
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.usefixtures("ray_cluster")
def test_a_run_asks_as_its_export_is_asked(folder: str, tmp_path: Path, caplog: Any) -> None:
    config = small_config(folder).policy(template_kwargs={"thinking": True}).sampling(max_new_tokens=2)
    algo = config.build_algo()
    try:
        assert algo.env_runner_group.local_env_runner.renderer.stop_token_ids == {
            load_tokenizer(folder).eos_token_id,
            load_tokenizer(folder).pad_token_id,
        }
        algo.evaluate()
        assert "responses were cut at max_new_tokens=2" in caplog.text
        algo.train()
        algo.learner_group.export_policy(tmp_path / "out")
        episode = algo.last_episodes[0]
    finally:
        algo.stop()
    assert episode.turns[0].text.startswith("<think>\nLet me solve this step by step.\n")
    exported = load_tokenizer(str(tmp_path / "out"))
    question = [{"role": "user", "content": episode.observation}]
    asked = exported.apply_chat_template(question, add_generation_prompt=True, return_dict=False)
    assert asked == episode.turns[0].prompt_ids.tolist()
