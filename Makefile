# `make demo` and `make test` are complete on a fresh machine: they make .venv and install what they need, once.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
JOBS ?= auto

PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed

export PIP_DISABLE_PIP_VERSION_CHECK ?= 1

.DEFAULT_GOAL := help
.PHONY: help demo test test-quick test-compiled docs inspect install clean gpu gpu-test gpu-sanitize

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@printf '\n  ARGS="..." is passed on: make test ARGS="-k geometry -x", make demo ARGS="--output head.png"\n'
	@printf '  JOBS=1 runs the tests in one process; by default there are as many as cores\n'
	@printf '  PYTHON=python3.12 picks the interpreter for .venv; PIP_FIND_LINKS and other pip settings are honoured\n'

demo: $(STAMP)  ## upsample a real MRI volume, compare with PyTorch, write demo.png
	$(PY) -m triton_conv3dt demo $(ARGS)

test: $(STAMP)  ## run the test suite
	$(PY) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

test-quick: $(STAMP)  ## run every test with a few of its parameter sets, without the slow ones
	$(PY) -m pytest -n $(JOBS) --dist loadfile --quick $(ARGS)

test-compiled: $(STAMP)  ## run compiled kernels with no GPU, at random: ARGS="--minutes 30 --seed 7"
	@env -u TRITON_INTERPRET TRITON_CACHE_DIR=build/emulator-cache OMP_NUM_THREADS=1 PYTHONPATH=$(PYTHONPATH):.:tests:tests/support \
	    $(PY) -m emulator $(ARGS)

inspect: $(STAMP)  ## compile every shipped config, and some defaults with other versions of Triton too
	$(PY) -m triton_conv3dt inspect --configs
	PYTHON=$(PY) .ci/compilers

docs: $(STAMP)  ## write docs/api.md from the docstrings
	$(PY) docs/generate_api.py

install: $(STAMP)  ## make .venv and install the pinned versions

# On a machine with a GPU, from the source tree, installing nothing: PYTHON needs torch, triton, and for the tests pytest
# and pytest-xdist. Every step has a budget, and a limit should it not keep to it; together they stay below ten minutes.
# OUT: where everything lands. FROM: a folder with the journals of an earlier run that is to go on here. LAYERS: what is
# tuned and measured. FEW: what is also measured against torch.compile and JAX, which take their time to compile. PARTS: of
# the tests, those to run.
OUT ?=
FROM ?=
PARTS ?=
LAYERS ?= all
FEW ?= nnunet_iso128_up4 nvidia_nnunet_up4 monai_unet_infer160_up3 gwcnet_train_1 mednext_k3_up0_dw
# The Python that was named, else that of .venv where there is one.
GPU_PY = env PYTHONPATH=. PYTHONUNBUFFERED=1 $(if $(filter file,$(origin PYTHON)),$(or $(wildcard $(PY)),$(PYTHON)),$(PYTHON))
LIMIT := timeout --foreground -k 10 -s INT
READY = $(GPU_PY) -m triton_conv3dt info --require-gpu

gpu:  ## on a GPU, ten minutes: check, tune, measure and report; again, it goes on
	@$(READY)
	@out="$(OUT)"; failed=; \
	[ -n "$$out" ] || out=benchmarks/results/$$($(GPU_PY) -c 'from triton_conv3dt.planning import device; print(device.current().name)') || exit 1; \
	mkdir -p "$$out" && { [ -z "$(FROM)" ] || cp -n "$(FROM)"/*.jsonl "$$out"; } || exit 1; \
	step() { echo "make gpu: $$*"; }; \
	step check; $(LIMIT) 60 $(GPU_PY) -m triton_conv3dt check --n 16 --quiet >"$$out/check.txt" 2>&1 || failed="$$failed check"; \
	tail -n 3 "$$out/check.txt"; \
	step tune; $(LIMIT) 215 $(GPU_PY) -m triton_conv3dt tune --layers $(LAYERS) --budget 170s --resume \
	    --journal "$$out/tune.jsonl" --output autotune_configs || failed="$$failed tune"; \
	step bench; $(LIMIT) 185 $(GPU_PY) -m triton_conv3dt bench --layers $(LAYERS) --budget 140s --resume \
	    --peer cudnn cudnn_channels_last matmul --output "$$out" || failed="$$failed bench"; \
	step bench; $(LIMIT) 75 $(GPU_PY) -m triton_conv3dt bench --layers $(FEW) --direction forward step --budget 30s --resume \
	    --output "$$out" || failed="$$failed bench"; \
	step report; $(LIMIT) 30 $(GPU_PY) -m triton_conv3dt report "$$out" || failed="$$failed report"; \
	step "everything is in $$out, configs in autotune_configs"; \
	[ -z "$$failed" ] || { echo "make gpu: failed:$$failed" >&2; exit 1; }

GPU_TESTS = $(GPU_PY) tests/support/gpu_runner.py --output "$(or $(OUT),build/gpu-test)"

gpu-test:  ## on a GPU: the tests that need one, ten minutes at most; PARTS="small corpus" runs some
	@$(READY)
	@$(GPU_TESTS) $(PARTS:%=--part %) -- $(ARGS)

gpu-sanitize:  ## on a GPU: small cases under compute-sanitizer, where it is installed
	@command -v compute-sanitizer >/dev/null || { echo "compute-sanitizer is not installed: it comes with the CUDA toolkit" >&2; exit 1; }
	@$(READY)
	-@$(GPU_TESTS) --part small  # in one process under the sanitizer, compiling would take too long
	for tool in memcheck initcheck synccheck; do \
	    PYTORCH_NO_CUDA_MEMORY_CACHING=1 $(LIMIT) 170 compute-sanitizer --tool $$tool --error-exitcode 1 \
	        $(GPU_PY) -m pytest -m gpu --require-gpu tests/gpu/test_gpu_small.py $(ARGS) || exit 1; \
	done

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
