# `make demo` makes pictures, `make test` passes the tests; both set up .venv/ themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The CPU build of torch is enough for both; `make TORCH=torch demo` takes whatever build pip prefers.
TORCH ?= torch==2.13.0

# An environment of its own: CUDA's builds of PyTorch and of ONNX Runtime, which others need not download.
GPU_VENV := .venv-gpu
GPU_PIP := $(GPU_VENV)/bin/python -m pip install --quiet --disable-pip-version-check

.PHONY: gpu-acceptance demo test test-fast lint style types second-types tests clean

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

# What the GPU here can do: bench/results/<device>/accept.html; stopped, it goes on. `make gpu-acceptance ACCEPT="--layers 6"`
gpu-acceptance: $(GPU_VENV)/ready
	$(GPU_VENV)/bin/unipic2-edge bench accept $(ACCEPT)

$(VENV)/demo-ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[demo]"
	touch $@

$(VENV)/test-ready: $(VENV)/demo-ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[demo,dev]"
	@command -v chromium >/dev/null || { apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium >/dev/null; } || echo "without chromium the page's tests are skipped"
	touch $@

# The two builds of ONNX Runtime share their files, so one must go; TensorRT is a second backend, and may be missing.
$(GPU_VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(GPU_VENV)
	$(GPU_PIP) "torch>=2.11,<2.14"
	$(GPU_PIP) --editable ".[demo,rtx]" "pytest>=8,<10"
	$(GPU_VENV)/bin/python -m pip uninstall --quiet --yes onnxruntime
	$(GPU_PIP) "onnxruntime-gpu>=1.23,<2" || $(GPU_PIP) "onnxruntime>=1.23,<2"
	-$(GPU_PIP) "tensorrt>=10.3,<12"
	touch $@

clean:
	rm -rf $(VENV) $(GPU_VENV) demo-out accept-work
