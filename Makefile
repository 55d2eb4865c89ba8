# Every target does all the set-up on a fresh machine with python3 (>= 3.11) and venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
OUT ?= autotune-out/all-MiniLM-L6-v2
# More arguments of pytest: make test PYTEST='tests/search -x', PYTEST='-n 0 --pdb', PYTEST='-m farm'.
PYTEST ?=
# One process more than cores (tests/conftest.py); the tests of a module stay together, since they share its fixtures.
PARALLEL := -n auto --dist loadscope --no-loadscope-reorder

.PHONY: tune test test-all test-times lint venv clean

# The least latency that keeps a cosine of 0.99, on the backend that runs the model fastest here.
tune: venv
	$(BIN)/autotune --device cpu --backend auto --quality-floor 0.99 --trials 0 --measure-seconds 6 \
		--calibration-samples 256 --output $(OUT)

# The fast tier: units, contracts and a few real tunings. Tests named in PYTEST run whatever their tier.
test: venv
	$(BIN)/python -m pytest $(PARALLEL) $(PYTEST)

# Faults, browser, farm, docs and long tunings too.
test-all: venv
	$(BIN)/python -m pytest $(PARALLEL) --tier all $(PYTEST)

# `make test-all`, with the slowest tests, fixtures and modules at its end.
test-times:
	$(MAKE) --no-print-directory test-all PYTEST='--durations 10 --module-times 60 $(PYTEST)'

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy benchmarks
	$(BIN)/lint-imports

venv: $(STAMP)

# The CPU build of torch comes first, by its pin: a later range would fetch a CUDA build.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,farm,openvino,service,test]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) autotune-out
