# One virtual environment for everything; `make demo` and `make test` fill it on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-all check format docs clean

demo: $(READY)
	$(BIN)/foveal quickstart --output foveal-quickstart --overwrite

test: check
	$(BIN)/python -m pytest

test-all: check
	$(BIN)/python -m pytest -m "slow or not slow" --junitxml=build/test-all.xml
	$(BIN)/python tests/record_result.py build/test-all.xml tests/last_full_run.md

check: $(READY)
	$(BIN)/ruff format --check src tests benchmarks examples
	$(BIN)/ruff check src tests benchmarks examples
	$(BIN)/lint-imports
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(READY)
	$(BIN)/ruff format src tests benchmarks examples
	$(BIN)/ruff check --fix src tests benchmarks examples

clean:
	rm -rf $(VENV) build

$(READY): pyproject.toml
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Foveal needs Python 3.11 or newer: make PYTHON=python3.12')"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	touch $@
