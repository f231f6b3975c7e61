# `make demo` makes pictures, `make test` passes the tests; both set up .venv/ themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The CPU build of torch is enough for both; `make TORCH=torch demo` takes whatever build pip prefers.
TORCH ?= torch==2.13.0

.PHONY: demo test test-fast lint clean

demo: $(VENV)/demo-ready
	$(BIN)/unipic2-edge demo --workdir demo-out

test: $(VENV)/test-ready lint
	$(BIN)/python -m pytest -q

test-fast: $(VENV)/test-ready
	$(BIN)/python -m pytest -q -m "not slow"

lint: $(VENV)/test-ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python

$(VENV)/demo-ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[demo]"
	touch $@

$(VENV)/test-ready: $(VENV)/demo-ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[demo,dev]"
	touch $@

clean:
	rm -rf $(VENV) demo-out
