"""What the workers of `test_workers` do; imports little, since each of them starts anew."""

from __future__ import annotations

import os
import resource
import signal
import time
from typing import Any


def act(what: str, *arguments: str) -> Any:
    """Does one thing, by its name."""
    match what:
        case "echo":
            return list(arguments)
        case "pid":
            return os.getpid()
        case "loop":
            while True:
                pass
        case "power":  # one operation inside the interpreter: no Python code runs until it ends
            return len(str(9**9**8))
        case "sleep":
            return time.sleep(float(arguments[0]))
        case "allocate":
            return len(bytearray(8 << 30))
        case "recurse":
            return act("recurse")
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "limits":
            return [resource.getrlimit(what) for what in (resource.RLIMIT_AS, resource.RLIMIT_CPU)]
        case "print":
            print('{"result": "forged"}', flush=True)
            os.write(1, b'{"result": "forged"}\n')
            return "honest"
    raise ValueError(f"unknown: {what}")
