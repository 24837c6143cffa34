# A BUILD file for make: every target names its inputs, so that nothing is
# installed or run again without need. `make help` lists the targets.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
GIN    ?= gin/rps_softmax.gin
ARGS   ?=
WORKERS ?= 2
TF220  := .venv-tf220

INSTALLED := $(VENV)/.installed

SOURCES := $(shell find framework tasks -name '*.py' -o -name '*.j2')
CONFIGS := $(wildcard gin/*.gin gin/*/*.gin)
TESTS   := $(shell find tests -name '*.py')

.DEFAULT_GOAL := help
.PHONY: help install train train-workers smoke test test-slow soak test-tf220 \
        bench bench-overhead bench-augmentation bench-accuracy bench-doctor \
        docs lint format wheel lock clean

help:  ## Lists the targets
	@grep -hE '^[a-z0-9.-]+:.*##' $(MAKEFILE_LIST) | \
	  awk -F ':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'

install: $(INSTALLED)  ## Makes .venv with exactly the locked versions

$(INSTALLED): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "Python 3.11 to 3.13 is needed, not %d.%d: make PYTHON=python3.11 ..." % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

train: $(INSTALLED) $(SOURCES) $(CONFIGS)  ## Trains GIN=gin/rps_softmax.gin; ARGS=... adds flags
	$(BIN)/python -m framework.main --gin_file=$(GIN) $(ARGS)

train-workers: $(INSTALLED) $(SOURCES) $(CONFIGS)  ## The same with WORKERS=2 processes on this machine
	$(BIN)/python -m framework.launch --workers=$(WORKERS) -- --gin_file=$(GIN) $(ARGS)

smoke: $(INSTALLED) $(SOURCES) $(CONFIGS)  ## Trains gin/smoke.gin, in seconds
	$(BIN)/python -m framework.main --gin_file=gin/smoke.gin $(ARGS)

test: $(INSTALLED) $(SOURCES) $(CONFIGS) $(TESTS)  ## Runs the tests but for the slow ones
	$(BIN)/python -m pytest --numprocesses=3 --dist=loadfile --no-loadscope-reorder $(ARGS)

test-slow: $(INSTALLED) $(SOURCES) $(CONFIGS) $(TESTS)  ## Runs the slow tests
	$(BIN)/python -m pytest -m slow $(ARGS)

soak: $(INSTALLED) $(SOURCES) $(CONFIGS) $(TESTS)  ## Kills a run of two workers twenty times
	$(BIN)/python -m pytest -m slow tests/test_soak.py -s -k twenty $(ARGS)

test-tf220: $(TF220)/.installed $(SOURCES) $(CONFIGS) $(TESTS)  ## Runs the tests that TensorFlow's version matters to on 2.20, as TPU hosts have it
	$(TF220)/bin/python -m pytest tests/data tests/model tests/training tests/test_xla.py $(ARGS)

# The locked versions, but for what TensorFlow chooses by its own version.
$(TF220)/.installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(TF220)
	sed -nE '/^(tensorflow|tensorboard|tensorflow-metadata|protobuf|ml-dtypes|numpy|googleapis-common-protos|etils)==/d; s/^([A-Za-z0-9_.-]+==.*[^ ]) \\$$/\1/p' requirements.lock > $(TF220)/constraints.txt
	$(TF220)/bin/python -m pip install --quiet -c $(TF220)/constraints.txt 'tensorflow==2.20.0' -e '.[dev]'
	touch $@

bench: $(INSTALLED) $(SOURCES)  ## Measures this against its rivals, on FOLDER=..., into benchmarks/results.md
	$(BIN)/python -m benchmarks --folder=$(FOLDER) $(ARGS)

bench-overhead: $(INSTALLED) $(SOURCES)  ## Measures the trainer against the bare training step
	$(BIN)/python -m benchmarks.overhead $(ARGS)

bench-augmentation: $(INSTALLED) $(SOURCES)  ## Measures augmentation against Keras's layers
	$(BIN)/python -m benchmarks.augmentation $(ARGS)

bench-accuracy: $(INSTALLED) $(SOURCES) $(CONFIGS)  ## Trains GIN=gin/rps_softmax.gin with five seeds: mean and spread
	$(BIN)/python -m benchmarks.accuracy $(GIN) $(ARGS)

bench-doctor: $(INSTALLED) $(SOURCES)  ## Measures the doctor against decoding alone, on FOLDER=...
	$(BIN)/python benchmarks/doctor.py $(FOLDER) $(ARGS)

docs: $(INSTALLED) $(SOURCES)  ## Writes docs/reference anew, from what is registered
	$(BIN)/python -m framework.reference docs/reference

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
	rm -rf $(VENV) $(VENV).lock $(TF220) build dist *.egg-info .pytest_cache .ruff_cache
