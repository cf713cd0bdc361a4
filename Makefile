# One place for every command. `make` alone lists them.
#
# PYTHON   the interpreter that .venv is made with (3.10 to 3.13)
# MODEL    a model file, or the short name of one of the light networks of the onnx package (resnet50, vgg19, ...)
# BUDGET   how long `make demo` may take to tune: 90s, 5m, 1h30m
# TILEWRIGHT_TEST_LANES   in the environment of `make test`: 4, 8 or 16 tests code for x86-64-v2, -v3 or -v4
# TORCH    0 leaves PyTorch and Stable-Baselines3 out; the tests that need them are then skipped

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
MODEL ?= squeezenet
BUDGET ?= 5m
TORCH ?= 1
# Three processes for two cores: a sixth of the time of all tests is waiting, for nodes of a cluster, signals and time
# limits. Each process keeps to neighbouring tests while it has some, because what they share is made once a process. Fast
# tests do not wait.
test: PYTEST_ARGS ?= -n 3 --dist worksteal
check: PYTEST_ARGS ?= -n 2
# Threads of XGBoost and PyTorch that wait give their core to the other tests: a twelfth less processor time for cost models.
# Tests start a thousand processes, each of which would compile the package again where this variable keeps Python from
# writing what it has compiled: another twentieth.
TEST_ENVIRONMENT := OMP_WAIT_POLICY=passive PYTHONDONTWRITEBYTECODE=
BENCH ?=
ARGS ?=

BIN := .venv/bin
comma := ,
# Another stamp for another set of extras, so that TORCH=1 is noticed after a run without it. The demo needs neither.
DEMO_STAMP := .venv/.installed-dev
STAMP := $(DEMO_STAMP)-fleet$(if $(filter 1,$(TORCH)),-torch-rl)

.PHONY: help venv demo test check lint docs packages bench clean

help: ## list these targets
	@echo "make demo [MODEL=resnet50] [BUDGET=5m], and:"
	@sed -nE 's/^([a-z]+):.*## (.*)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

venv: $(STAMP) ## make .venv and install everything with pinned versions

.venv/.installed-%: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(subst -,$(comma),$*)]'
	@touch $@

demo: $(DEMO_STAMP) ## tune MODEL within BUDGET, then compare with ONNX Runtime and the untuned build
	@mkdir -p demo
	@model='$(MODEL)'; \
	if [[ ! -e "$$model" ]]; then \
	  light=$$($(BIN)/python -c 'import onnx, pathlib; print(pathlib.Path(onnx.__file__).parent / "backend/test/data/light")'); \
	  if [[ ! -e "$$light/light_$$model.onnx" ]]; then \
	    echo "MODEL is a file or the short name of a light network, but this is '$$model'; the names are:" \
	      $$(cd "$$light" && ls light_*.onnx | sed -E 's/^light_(.*)\.onnx$$/\1/') >&2; \
	    exit 2; \
	  fi; \
	  model="$$light/light_$$model.onnx"; \
	fi; \
	set -x; \
	$(BIN)/tilewright tune "$$model" --out demo/executable --budget '$(BUDGET)' --json demo/tune.json; \
	$(BIN)/tilewright bench demo/executable --against onnxruntime --against untuned --json demo/bench.json

test: $(STAMP) ## run the test suite (TORCH=0 without PyTorch, PYTEST_ARGS='-k records')
	$(TEST_ENVIRONMENT) $(BIN)/python -m pytest $(PYTEST_ARGS)

check: lint ## lint, and the tests marked fast, in under 90 s
	$(TEST_ENVIRONMENT) $(BIN)/python -m pytest -m fast $(PYTEST_ARGS)

lint: $(STAMP) ## ruff, mypy, import contracts, spelling and links, as configured in pyproject.toml
	$(BIN)/codespell
	$(BIN)/python -m pytest -q tests/test_docs.py
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo --no-cache

docs: .venv/.installed-docs ## build the site into build/docs, with the API reference; warnings are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

packages: $(STAMP) ## build the packages, and try each one in empty environments of every supported Python that is here
	$(BIN)/python release/check.py --out build/dist

bench: $(STAMP) ## list the benchmark scripts, or run one: make bench BENCH=network ARGS="--models resnet50"
	@if [[ -n '$(BENCH)' ]]; then $(BIN)/python -m 'bench.$(BENCH)' $(ARGS); \
	else echo 'make bench BENCH=NAME, where NAME is one of:'; \
	  (cd bench && grep -l __main__ [a-z]*.py) | sed -nE 's/^([a-z][a-z0-9_]*)\.py$$/  \1/p'; fi

clean: ## remove .venv and everything that was made
	rm -rf .venv demo build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
