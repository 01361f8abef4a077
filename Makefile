# `make demo` runs the benchmark on the embedded model, `make test` passes the tests; each makes .venv if need be.
# `make test-slow` also installs what `--report-to` sends to: Weights & Biases and MLflow.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BOTH_ENGINES := $(addprefix tests/decoding/test_,from_states.py medusa.py mtp.py identity.py skip_drafting.py \
	exit_trees.py block.py hierarchical.py adaptive.py batch.py draft_model.py token_timing.py) \
	tests/families/test_batch_families.py

# Bytecode is kept, whatever the user's shell says: each worker, and each process that a test starts, would else compile
# all files anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-slow lint clean

demo: $(VENV)/installed
	$(BIN)/fastvlm-bench run --limit 20

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n 2 --dist worksteal --durations=15

test-slow: $(VENV)/installed-trackers
	$(BIN)/python -m pytest -n 2 --dist worksteal -m slow
	TEST_ENGINE=graphs $(BIN)/python -m pytest -n 2 --dist worksteal $(BOTH_ENGINES)

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	touch $@

$(VENV)/installed-trackers: $(VENV)/installed-dev
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[wandb,mlflow]'
	touch $@

clean:
	rm -rf $(VENV)
