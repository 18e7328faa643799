"""The commands by their names: of the script in `experiments/`, and of `llmenv`. Imports none of them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

# The panels of `llmenv --help`.
TRAIN, LOOK, FILES = "Train", "Evaluate and look", "Data and files"


class Command(NamedTuple):
    """A sub-command of `llmenv`.

    Attributes:
        script: The module of `experiments` that it is.
        panel: Of the help.
        about: What that script's help begins with.
    """

    script: str
    panel: str
    about: str


COMMANDS = {
    "train": Command(
        "run", TRAIN, "Trains a language model in a Gymnasium environment by reinforcement learning."
    ),
    "sweep": Command("sweep", TRAIN, "Searches a space of settings by many trials side by side."),
    "r1": Command(
        "r1",
        TRAIN,
        "Takes a recipe's stages one after another, and says what each is worth and what it took.",
    ),
    "evaluate": Command("evaluate", LOOK, "Evaluates a model on the held-out tasks of environments."),
    "compare": Command(
        "compare",
        LOOK,
        "Compares models on the tasks that they have in common: accuracy, differences with their intervals, flips.",
    ),
    "play": Command("play", LOOK, "Shows one episode as it goes."),
    "report": Command(
        "report", LOOK, "Writes the page of a run, an evaluation or a sweep anew, for what exists."
    ),
    "data": Command(
        "prepare_data", FILES, "Writes the data set of a task, in the schema of TinyZero and verl."
    ),
    "generate": Command(
        "generate", FILES, "Samples what is worth learning from. All options of evaluate.py are taken too."
    ),
    "export": Command("export", FILES, "Writes the policy of a checkpoint as a Hugging Face folder."),
}


def called(name: str) -> str:
    """How to call a sub-command from here, for a message that says what to do next.

    Args:
        name: Such as "train".

    Returns:
        `llmenv train` where that was the way, or where no script is at hand; else `python experiments/run.py`.
    """
    script = Path("experiments", f"{COMMANDS[name].script}.py")
    if Path(sys.argv[0]).name == "llmenv" or not script.is_file():
        return f"llmenv {name}"
    return f"python {script}"
