"""What the tests share: one small random model, one Ray."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent
# Before torch and ray are imported; Ray's workers inherit all of it.
os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # the models are so small that threads only get in each other's way
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_DEDUP_LOGS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_prestart_worker_first_driver", "0")  # a worker a core that nobody asks for
# No driver shows its workers' logs (log_to_driver): else each Ray looks for new files of them ten times a second.
os.environ.setdefault("RAY_LOG_MONITOR_MANY_FILES_THRESHOLD", "0")
os.environ.setdefault("LOG_NAME_UPDATE_INTERVAL_S", "1e9")
# Ray's workers import the functions that a test hands them from the test's own module.
FOLDERS = sorted({str(file.parent) for file in TESTS.rglob("*.py")})
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(TESTS.parent), *FOLDERS, *filter(None, [os.environ.get("PYTHONPATH")])]
)

import pytest  # noqa: E402

_modules = 0


def pytest_collection_finish() -> None:
    """All modules are loaded now, and the tests are known: the collector need not go through them again and again.

    A learner that ends collects its garbage, which took half of the tests' time.
    """
    keep_what_is_loaded()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    """As above: what a test was the first to load."""
    if len(sys.modules) > _modules + 50:
        keep_what_is_loaded()


def keep_what_is_loaded() -> None:
    global _modules
    _modules = len(sys.modules)
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    gc.unfreeze()


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random Llama with the tiny model's tokenizer, far from uniform, as a Hugging Face folder."""
    import support

    return support.make_model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture
def model(model_folder: str) -> Any:
    """That model, fresh: a test may change it."""
    from llmenv.models.names import load_causal_lm

    return load_causal_lm(model_folder)


@pytest.fixture
def flex_attention_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its reference implementation has a backward pass, which PyTorch refuses on CPUs."""
    from torch.nn.attention import flex_attention

    monkeypatch.setattr(flex_attention, "_validate_device", lambda *states: None)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    import ray

    # A Ray that somebody has started on this machine is not the tests'.
    ray.init(address="local", num_cpus=4, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    yield
    ray.shutdown()
