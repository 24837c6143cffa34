# A BUILD file for make: every target names its inputs, so that nothing is
# installed or run again without need. `make help` lists the targets.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
GIN    ?= gin/rps_softmax.gin
ARGS   ?=

INSTALLED := $(VENV)/.installed

SOURCES := $(shell find framework tasks -name '*.py')
CONFIGS := $(wildcard gin/*.gin)
TESTS   := $(shell find tests -name '*.py')

.DEFAULT_GOAL := help
.PHONY: help install train smoke test test-slow lint format wheel lock clean

help:  ## Lists the targets
	@grep -hE '^[a-z.-]+:.*##' $(MAKEFILE_LIST) | \
	  awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

install: $(INSTALLED)  ## Makes .venv with exactly the locked versions

$(INSTALLED): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "Python 3.11 to 3.13 is needed, not %d.%d: make PYTHON=python3.11 ..." % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

train: $(INSTALLED) $(SOURCES) $(CONFIGS)  ## Trains GIN=gin/rps_softmax.gin; ARGS=... adds flags
	$(BIN)/python -m framework.main --gin_file=$(GIN) $(ARGS)

smoke: $(INSTALLED) $(SOURCES) $(CONFIGS)  ## Trains gin/smoke.gin, in seconds
	$(BIN)/python -m framework.main --gin_file=gin/smoke.gin $(ARGS)

test: $(INSTALLED) $(SOURCES) $(CONFIGS) $(TESTS)  ## Runs the tests but for the slow ones
	$(BIN)/python -m pytest $(ARGS)

test-slow: $(INSTALLED) $(SOURCES) $(CONFIGS) $(TESTS)  ## Runs the slow tests
	$(BIN)/python -m pytest -m slow $(ARGS)

lint: $(INSTALLED)  ## Checks style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(INSTALLED)  ## Mends what of it can be mended by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: dist/.built  ## Builds the wheel into dist/

dist/.built: $(INSTALLED) $(SOURCES) $(CONFIGS) pyproject.toml README.md LICENSE
	rm -rf build dist
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation -w dist .
	rm -rf build
	touch $@

lock: pyproject.toml  ## Writes requirements.lock anew, from pyproject.toml
	$(PYTHON) -m venv $(VENV).lock
	$(VENV).lock/bin/python -m pip install --quiet uv
	$(VENV).lock/bin/uv pip compile pyproject.toml --extra dev --universal \
	  --generate-hashes --no-emit-index-url --no-emit-find-links \
	  --custom-compile-command 'make lock' -o requirements.lock
	rm -rf $(VENV).lock

clean:  ## Removes what was installed and built; runs stay
	rm -rf $(VENV) $(VENV).lock build dist *.egg-info .pytest_cache .ruff_cache
