# Two commands do everything: `make demo` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UNAME := $(shell uname -s)
# On Linux mlx needs a backend: CUDA where the NVIDIA driver is, else the CPU. On macOS it comes with Metal.
BACKEND := $(if $(filter Linux,$(UNAME)),$(if $(shell command -v nvidia-smi),cuda,cpu))
comma := ,

.PHONY: demo test lint types bench tools clean

demo: $(VENV)/.installed
	@$(BIN)/saedsl demo

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -q -n auto --dist loadfile -m "not slow"

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

bench: $(VENV)/.installed-dev
	for b in tests/bench/[a-z]*.py; do echo "== $$b"; $(BIN)/python $$b || exit 1; done

$(VENV)/bin/python: | tools
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "saedsl needs Python 3.11 or later: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".$(if $(BACKEND),[$(BACKEND)])"
	@touch $@

$(VENV)/.installed-dev: pyproject.toml $(VENV)/.installed
	@sh .ci/tools tests
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev$(if $(BACKEND),$(comma)$(BACKEND))]"
	@touch $@

# dot draws graphs, a C++ compiler lets mlx fuse operations, OpenBLAS makes it fast. The demo works without them.
tools:
	@sh .ci/tools

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .hypothesis
