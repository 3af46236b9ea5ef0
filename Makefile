# `make demo` and `make test` are complete on a fresh machine: they make .venv and install what they need, once.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
JOBS ?= auto

PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed

export PIP_DISABLE_PIP_VERSION_CHECK ?= 1

.DEFAULT_GOAL := help
.PHONY: help demo test inspect install clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@printf '\n  ARGS="..." is passed on: make test ARGS="-k geometry -x", make demo ARGS="--output head.png"\n'
	@printf '  JOBS=1 runs the tests in one process; by default there are as many as cores\n'
	@printf '  PYTHON=python3.12 picks the interpreter for .venv; PIP_FIND_LINKS and other pip settings are honoured\n'

demo: $(STAMP)  ## upsample a real MRI volume, compare with PyTorch, write demo.png
	$(PY) -m triton_conv3dt demo $(ARGS)

test: $(STAMP)  ## run the test suite
	$(PY) -m pytest -n $(JOBS) --dist loadgroup $(ARGS)

inspect: $(STAMP)  ## compile every shipped config, and some defaults with other versions of Triton too
	$(PY) -m triton_conv3dt inspect --configs
	PYTHON=$(PY) .ci/compilers

install: $(STAMP)  ## make .venv and install the pinned versions

clean:  ## remove .venv and caches
	rm -rf $(VENV) .pytest_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { \
	    echo "error: $(PYTHON) not found. Install it (Debian: apt-get install python3 python3-venv)" >&2; \
	    echo "       or name another one: make PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
	    echo "error: $$($(PYTHON) --version) does not have the pinned versions: Python 3.11 to 3.13 do." >&2; \
	    echo "       Name another one: make PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "error: $(PYTHON) cannot make virtual environments: Debian ships that part separately." >&2; \
	    echo "       Run: apt-get install python3-venv (as root), then make again." >&2; exit 1; }
	@echo 'Installing the pinned versions into $(VENV): once, a few minutes.'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --constraint constraints.txt --editable '.[demo,dev]'
	@touch $@
