"""The prompt that a policy was trained with, written beside its weights: a chat template, and where responses end.

Whoever asks an exported policy through its chat template then gives it the tokens that it was trained on. What is the
environment's in it is marked: a renderer leaves that out, since every environment brings its own. Knows nothing about
weights.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from llmenv.models.chat_template import OWN, OWN_END, RAW, still_to_open
from llmenv.models.renderer import Renderer
from llmenv.schema import R1_PREAMBLE

# The environment's prefix begins the first answer; those of later turns are its own to say, turn by turn.
_FIRST = (
    "add_generation_prompt and messages | selectattr('role', 'equalto', 'assistant') | list | length == 0"
)


@dataclass(frozen=True)
class TrainedPrompt:
    """How prompts were made in training.

    Attributes:
        model: Whose tokenizer it is: a name, a folder or a hub id.
        template: As for `Renderer`.
        template_kwargs: As for `Renderer`.
        system: The environment's system message, which an export has where a conversation brings none.
        assistant_prefix: How the environment begins the assistant's first message.
    """

    model: str
    template: str = "auto"
    template_kwargs: dict[str, Any] = field(default_factory=dict)
    system: str | None = None
    assistant_prefix: str = ""

    def save(self, folder: Path) -> None:
        """Writes the tokenizer, its chat template in training's form, to a folder of the policy's weights.

        Its generation settings get all of training's stop tokens.
        """
        renderer = Renderer.from_model(self.model, self.template, self.template_kwargs)
        tokenizer, stops = renderer.tokenizer, sorted(renderer.stop_token_ids)
        tokenizer.chat_template = self.source(renderer)
        tokenizer.save_pretrained(folder)
        try:
            settings = GenerationConfig.from_pretrained(folder)
        except OSError:  # a model that has none
            settings = GenerationConfig()
        settings.eos_token_id = stops[0] if len(stops) == 1 else stops
        settings.save_pretrained(folder)

    def source(self, renderer: Renderer) -> str:
        """A chat template that renders what `renderer` does, the environment's own texts included."""
        if renderer.chat:
            return self._around(renderer)
        end = renderer.tokenizer.eos_token or renderer.tokenizer.decode(sorted(renderer.stop_token_ids)[:1])
        lead, end = _literal(renderer.tokenizer.decode(renderer.lead)), _literal(end)
        if renderer.template == "raw":
            return (
                f"{RAW}{{{{- {lead} -}}}}"
                "{%- for message in messages if message['role'] != 'system' -%}{{- message['content'] -}}"
                f"{{%- if message['role'] == 'assistant' -%}}{{{{- {end} -}}}}{{%- endif -%}}{{%- endfor -%}}"
                f"{_begun(self.assistant_prefix)}"
            )
        return (
            "{%- set said = namespace(system='') -%}"
            f"{OWN}{{%- set said.system = {_literal(self.system or '')} -%}}{OWN_END}"
            "{%- for message in messages if message['role'] == 'system' -%}"
            "{%- set said.system = message['content'] -%}{%- endfor -%}"
            f"{{{{- {lead} + {_literal(R1_PREAMBLE)} + said.system -}}}}"
            "{%- for message in messages -%}"
            "{%- if message['role'] == 'user' -%}{{- '\\nUser: ' + message['content'] -}}"
            "{%- elif message['role'] == 'assistant' -%}"
            f"{{{{- '\\nAssistant: ' + message['content'] + {end} -}}}}"
            "{%- endif -%}{%- endfor -%}"
            "{%- if add_generation_prompt -%}{{- '\\nAssistant: ' -}}{%- endif -%}"
            f"{_begun(self.assistant_prefix)}"
        )

    def _around(self, renderer: Renderer) -> str:
        """The model's own chat template, with its arguments, the system message and the prefix set around it."""
        assert renderer.chat
        lines = [
            f"{{%- if {name} is not defined %}}{{% set {name} = {_literal(value)} %}}{{% endif %}}\n"
            for name, value in self.template_kwargs.items()
        ]
        if self.system:
            own = f"[{{'role': 'system', 'content': {_literal(self.system)}}}]"
            lines.append(
                f"{OWN}{{%- if not messages or messages[0]['role'] != 'system' %}}"
                f"{{% set messages = {own} + messages %}}{{% endif %}}{OWN_END}\n"
            )
        if not renderer.chat.takes_system:
            both = "messages[0]['content'] + '\\n\\n' + messages[1]['content']"
            lines.append(
                "{%- if messages | length > 1 and messages[0]['role'] == 'system' %}"
                f"{{% set messages = [{{'role': 'user', 'content': {both}}}] + messages[2:] %}}{{% endif %}}\n"
            )
        # Jinja drops the line break behind a block or a comment, so that the template's own first line stays its first.
        _, opened = renderer.chat.first(self.system, "")
        behind = _begun(still_to_open(opened, self.assistant_prefix))
        return "".join(lines) + renderer.chat.source.removesuffix("\n") + behind


def _begun(prefix: str) -> str:
    """The end of a template that begins the first answer as the environment does."""
    return f"{OWN}{{% if {_FIRST} %}}{{{{ {_literal(prefix)} }}}}{{% endif %}}{OWN_END}" if prefix else ""


def _literal(value: Any) -> str:
    """A value as Jinja writes it."""
    return "none" if value is None else json.dumps(value, ensure_ascii=False)
