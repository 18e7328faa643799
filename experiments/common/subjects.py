"""What `--model` may name, and how each of them is made ready. Knows no environment."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from llmenv.remote import is_uri

if TYPE_CHECKING:
    from llmenv.evaluation.subject import Subject

HUMAN = "human"


def maker(model: str, sampler: str, dtype: str, template: str, trusted: bool) -> Callable[[], Subject]:
    """What makes a model ready; whether there is one is found out at once, before anything heavy is imported.

    Args:
        model: As `--model` has it: "human", a function, or a model of any kind.
        sampler: "transformers" or "vllm".
        dtype: Of its weights.
        template: Of its prompts.
        trusted: Whether code that comes with it may be run.

    Raises:
        ValueError: If there is no such model.
    """
    if model == HUMAN:
        from experiments.common.human import human_subject

        return human_subject
    here = model
    if is_uri(model):
        from experiments.common.saved_models import brought

        here = brought(model)
    elif ":" in model and not Path(model).exists():
        from llmenv.evaluation.text_models import function_subject

        return lambda: function_subject(model)
    if sampler == "vllm" and find_spec("vllm") is None:
        raise ValueError("--sampler vllm needs vLLM: pip install 'llmenv[vllm]', or leave the option out")
    from llmenv.models import names

    names.trust_remote_code(trusted)
    if here != names.smollm2.NAME and not names.is_adapter(Path(here).expanduser()):
        from experiments.common.saved_models import left_by_run

        if left_by_run(here) is None:
            names.resolve_model(here)  # those two may have to be made first

    def make() -> Subject:
        from experiments.common.saved_models import saved_model
        from llmenv.evaluation.subject import load_subject

        return load_subject(saved_model(here), sampler, name=model, dtype=dtype, template=template)

    return make


def server(
    model: str, base_url: str, timeout: float, price_in: float | None, price_out: float | None
) -> Callable[[], Subject]:
    """What makes a server's model ready; see `llmenv.evaluation.endpoint.Endpoint`."""
    from llmenv.evaluation.endpoint import Endpoint, endpoint_subject

    prices = None if price_in is None and price_out is None else (price_in or 0.0, price_out or 0.0)
    return lambda: endpoint_subject(Endpoint(base_url, model, timeout, prices=prices))
