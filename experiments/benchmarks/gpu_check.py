"""What a GPU makes of this project's own paths: right, compiled a few times only, fast?

    python -m experiments.benchmarks.gpu_check --out runs/gpu

It needs torch and transformers, and neither ray nor vLLM: the modules that compute are called as a learner calls them,
on models with random weights. Cheap sections come first, each catches its own failure, and what was found is in
`result.json` after every one of them, beside `profile.txt`. A section prints its pass lines: a figure, and the bound
that it wants. Meant to take less than 8 minutes on one large GPU (80 GB or more). `--smoke` runs it small on a CPU,
which says that it runs. The whole program on a GPU, with Ray, is `gpu_check_run.py`'s.
"""

from __future__ import annotations

import argparse
import json
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from experiments.benchmarks.gpu.bench import Bench
from experiments.benchmarks.gpu.exactness import correctness, head, masks, optimizer, variants
from experiments.benchmarks.gpu.speed import sampler, update, weight_sync

DEADLINE = 400  # seconds after which what takes long is left out
RESULT = "result.json"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--smoke", action="store_true", help="small, on a CPU")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/gpu_check"), help="folder (default: %(default)s)"
    )
    parser.add_argument("--only", nargs="*", metavar="SECTION", help="these sections alone")
    arguments = parser.parse_args()
    if not arguments.smoke and not torch.cuda.is_available():
        parser.error("there is no GPU: --smoke runs small on a CPU")
    arguments.out.mkdir(parents=True, exist_ok=True)
    sections: dict[str, Callable[[Bench], None]] = {
        "correctness": correctness,
        "variants": variants,
        "optimizer": optimizer,
        "head": head,
        "masks": masks,
        "update": partial(update, folder=arguments.out),
        "sampler": sampler,
        "weight_sync": weight_sync,
    }
    if unknown := set(arguments.only or ()) - sections.keys():
        parser.error(f"there is no section {', '.join(unknown)}: there are {', '.join(sections)}")
    chosen = {name: run for name, run in sections.items() if name in (arguments.only or sections)}
    device = torch.device("cpu" if arguments.smoke else "cuda")
    return check(chosen, Bench(device, arguments.smoke, time.monotonic() + DEADLINE), arguments.out)


def check(sections: dict[str, Callable[[Bench], None]], bench: Bench, folder: Path) -> int:
    """Runs all of them and writes down what they found; how many wants were not met, and sections that failed."""
    torch.backends.cuda.matmul.allow_tf32 = False
    result: dict[str, Any] = {"machine": machine(bench), "sections": {}}
    print(result["machine"], flush=True)
    wrong = 0
    for name, section in sections.items():
        print(name, flush=True)
        bench.figures, bench.wants = {}, []
        one: dict[str, Any] = {"figures": bench.figures, "wants": bench.wants}
        result["sections"][name] = one
        start = time.monotonic()
        try:
            section(bench)
        except Exception:
            one["error"] = traceback.format_exc()
            wrong += 1
            print(one["error"], flush=True)
        wrong += sum(not want["passed"] for want in bench.wants)
        one["seconds"] = round(time.monotonic() - start, 1)
        print(f"  {one['seconds']} s", flush=True)
        (folder / RESULT).write_text(json.dumps(result, indent=1, default=str))
        if bench.device.type == "cuda":
            torch.cuda.empty_cache()
    print(f"{wrong} not as wanted; the figures are in {folder / RESULT}")
    return wrong


def machine(bench: Bench) -> dict[str, str]:
    name = torch.cuda.get_device_name() if bench.device.type == "cuda" else "CPU"
    return {"torch": torch.__version__, "device": name, "smoke": str(bench.smoke)}


if __name__ == "__main__":
    raise SystemExit(min(main(), 1))
