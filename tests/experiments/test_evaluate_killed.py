"""An evaluation that is killed by SIGKILL, three times in different places, and resumed."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd

KILLED = -signal.SIGKILL
# A process for each evaluation, forked after the imports, which take longer than all the rest. Its model ends it: in
# the middle of a batch; with a file of records half written; or when the file has its name and nothing else is done.
DRIVER = """
import os, signal, sys
from pathlib import Path

import pandas, pyarrow.parquet, scipy.special
import envs
from experiments.common.ownership import claim
from llmenv.evaluation.run import evaluate
from llmenv.evaluation.text_models import Reply, TextSampler, text_subject

place, at, count = "", 0, 0
replace, write_table = os.replace, pyarrow.parquet.write_table

def die(here):
    global count
    count += here == place
    if here == place and count == at:
        os.kill(os.getpid(), signal.SIGKILL)

def say(messages):
    die("batch")
    text = messages[-1]["content"]
    return Reply(f"<think>{len(text)}</think><answer>{text[-9:]}</answer>")

def dying_replace(source, target):
    replace(source, target)
    if str(target).endswith(".parquet"):
        die("renamed")

def dying_write(table, file, **kwargs):
    write_table(table, file, **kwargs)
    whole = Path(file).read_bytes()
    Path(file).write_bytes(whole[: len(whole) // 2])
    die("written")
    Path(file).write_bytes(whole)

os.replace, pyarrow.parquet.write_table = dying_replace, dying_write
for line in sys.argv[1:]:
    output, place, at = line.split()
    at = int(at)
    if not (child := os.fork()):
        model = text_subject("m", "1", TextSampler(lambda asked, *_: [*map(say, asked)]), {})
        claimed = claim(Path(output), resuming=True)
        evaluate(model, "envs:Countdown-v0", output, num_tasks=300, samples=2, batch_size=48)
        claimed.release()
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), len([*Path(output, "records").glob("part_*")]))
"""


def records(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "records").drop(columns="seconds")


def test_what_was_killed_three_times_has_the_records_of_what_was_not(tmp_path: Path) -> None:
    done = ["whole - 0", "killed batch 100", "killed written 3", "killed renamed 4", "killed - 0"]
    result = subprocess.run(
        [sys.executable, "-c", DRIVER, *done], check=True, cwd=tmp_path, capture_output=True
    )
    # Of 13 files, 2 are there when the third batch is killed, 2 more with the third half written, and 4 more.
    assert result.stdout.decode().split("\n")[:5] == [
        "0 13",
        f"{KILLED} 2",
        f"{KILLED} 4",
        f"{KILLED} 8",
        "0 13",
    ]
    whole, killed = records(tmp_path / "whole"), records(tmp_path / "killed")
    assert len(whole) == 600
    assert whole.astype(str).equals(killed.astype(str))
