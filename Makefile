# Every target sets up what it needs: a virtual environment with uv and the locked versions.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
READY := $(VENV)/.ready
LOWEST ?= .venv-lowest
DOCKER ?= build cpu
# One single-threaded process per core, eight at most: each of them has to import torch.
PARALLEL := --numprocesses auto --maxprocesses 8 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help setup demo docker test test-slow test-nightly test-lowest smoke fuzz kills audit lint type format bench \
	lock clean

help: ## print this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): pyproject.toml requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --require-hashes --compile-bytecode --python $(BIN)/python -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	@touch $@

setup: $(READY) ## make the virtual environment (needs Python 3.11 or newer)

demo: $(READY) ## train the mean-shift decoder on synthetic scenes (minutes on two cores)
	$(BIN)/segbench fit --config experiments/meanshift.yaml --config experiments/data/synthetic.yaml \
		--model.init_args.encoder.init_args.drop_path_rate 0  # stochastic depth is for longer training

docker: ## build the image for CPUs; DOCKER="build cuda" for NVIDIA GPUs
	mkdir -p data runs  # else the Docker daemon creates them, as root
	SEGBENCH_UID=$$(id -u) SEGBENCH_GID=$$(id -g) docker compose --file docker/compose.yaml $(DOCKER)

test: $(READY) ## run the quick tests
	$(BIN)/python -m pytest -m "not slow and not smoke and not nightly" $(PARALLEL)

test-slow: $(READY) ## run the slow tests
	$(BIN)/python -m pytest -m slow $(PARALLEL)

test-nightly: $(READY) ## run the tests that are too slow for every change
	$(BIN)/python -m pytest -m nightly $(PARALLEL)

test-lowest: ## run the quick tests with the lowest versions that pyproject.toml allows, in .venv-lowest
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/pip install --quiet --disable-pip-version-check uv
	$(LOWEST)/bin/uv pip install --quiet --resolution lowest-direct --python $(LOWEST)/bin/python -e '.[dev]'
	# Old releases warn about each other's deprecations and about checkpoints of newer ones.
	$(LOWEST)/bin/python -m pytest -m "not slow and not smoke and not nightly" $(PARALLEL) \
		-W ignore::DeprecationWarning -W ignore::FutureWarning \
		-W "ignore:The loaded checkpoint was produced with Lightning:UserWarning"

smoke: $(READY) ## train every experiment and every sweep for two steps on synthetic data
	$(BIN)/python -m pytest -m smoke $(PARALLEL)

fuzz: $(READY) ## read hundreds of damaged files of every type; FUZZ="--count 1000 --seed 1" for more
	$(BIN)/python tests/fuzzing/run.py $(FUZZ)

kills: $(READY) ## kill segbench at many points and resume it; KILLS="fit --kills 100 --seed 1" for more
	$(BIN)/python tests/kills/kill_rounds.py $(KILLS)

lint: $(READY) ## check style and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

type: $(READY) ## check types
	$(BIN)/mypy

format: $(READY) ## fix style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY) ## benchmark the kernels against their reference implementations
	$(BIN)/segbench bench kernels

lock: ## update requirements.lock from pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra dev --no-header --no-annotate \
		--generate-hashes --upgrade pyproject.toml --output-file requirements.lock

audit: $(READY) ## check the locked versions against the public vulnerability database (needs a network)
	$(BIN)/uv tool run pip-audit --disable-pip --require-hashes -r requirements.lock

clean: ## remove virtual environments and caches, but not runs
	rm -rf $(VENV) $(LOWEST) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache segbench.egg-info
