# Every target sets up what it needs: a virtual environment with uv in it, and the locked versions.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# A process for each core, each with one thread; more than eight would only import torch more often.
PARALLEL := --numprocesses auto --maxprocesses 8 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-nightly smoke fuzz kills audit lint type format bench lock clean

help: ## print this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): pyproject.toml requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --require-hashes --compile-bytecode --python $(BIN)/python -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	@touch $@

setup: $(READY) ## make the virtual environment (needs Python 3.11 or newer)

demo: $(READY) ## train the mean-shift decoder on drawn scenes (minutes on two cores)
	$(BIN)/segbench fit --config experiments/meanshift.yaml --config experiments/data/synthetic.yaml \
		--model.init_args.encoder.init_args.drop_path_rate 0  # stochastic depth is for longer trainings

test: $(READY) ## run the tests, less the slow ones and the smoke tests
	$(BIN)/python -m pytest -m "not slow and not smoke and not nightly" $(PARALLEL)

test-slow: $(READY) ## run the slow tests
	$(BIN)/python -m pytest -m slow $(PARALLEL)

test-nightly: $(READY) ## run the tests that take too long for every change
	$(BIN)/python -m pytest -m nightly $(PARALLEL)

smoke: $(READY) ## train every experiment and every sweep for two steps on drawn data
	$(BIN)/python -m pytest -m smoke $(PARALLEL)

fuzz: $(READY) ## read hundreds of damaged files of every kind; FUZZ="--count 1000 --seed 1" for more
	$(BIN)/python tests/fuzzing/run.py $(FUZZ)

kills: $(READY) ## kill segbench at every kind of moment and resume it; KILLS="fit --kills 100 --seed 1" for more
	$(BIN)/python tests/kills/kill_rounds.py $(KILLS)

lint: $(READY) ## check style, imports between rooms
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

type: $(READY) ## check types
	$(BIN)/mypy

format: $(READY) ## put style right
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY) ## measure the kernels beside their plain references
	$(BIN)/segbench bench kernels

lock: ## resolve requirements.lock again from pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra dev --no-header --no-annotate \
		--generate-hashes --upgrade pyproject.toml --output-file requirements.lock

audit: $(READY) ## look the locked versions up in the public database of vulnerabilities (needs the network)
	$(BIN)/uv tool run pip-audit --disable-pip --require-hashes -r requirements.lock

clean: ## remove the virtual environment and caches; runs stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache segbench.egg-info
