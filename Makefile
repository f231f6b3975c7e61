# `make demo` makes pictures, `make test` passes the tests; both set up .venv/ themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The CPU build of torch is enough for both; `make TORCH=torch demo` takes whatever build pip prefers.
TORCH ?= torch==2.13.0

.PHONY: demo test test-fast lint style types second-types tests clean

demo: $(VENV)/demo-ready
	$(BIN)/unipic2-edge demo --workdir demo-out

# Side by side: on few cores the type checkers take as long as half of the tests.
test: $(VENV)/test-ready
	$(MAKE) --no-print-directory --jobs 4 style types second-types tests

test-fast: $(VENV)/test-ready
	$(BIN)/python -m pytest -q -m "not slow"

lint: style types second-types

style: $(VENV)/test-ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/test-ready
	$(BIN)/mypy

second-types: $(VENV)/test-ready
	$(BIN)/pyright --pythonpath $(BIN)/python

# One process a core, one thread each: the heavy tests trace graphs, which takes one core whatever there is.
tests: $(VENV)/test-ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --numprocesses auto --dist worksteal

$(VENV)/demo-ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[demo]"
	touch $@

$(VENV)/test-ready: $(VENV)/demo-ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[demo,dev]"
	@command -v chromium >/dev/null || { apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium >/dev/null; } || echo "without chromium the page's tests are skipped"
	touch $@

clean:
	rm -rf $(VENV) demo-out
