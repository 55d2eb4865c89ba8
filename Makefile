# `make tune` and `make test` do all the set-up on a fresh machine with python3 (>= 3.11) and venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
OUT ?= autotune-out/all-MiniLM-L6-v2
PYTEST ?=

.PHONY: tune test lint venv clean

tune: venv
	$(BIN)/autotune --device cpu --latency-budget 0.85x --output $(OUT) --format json

test: venv
	$(BIN)/python -m pytest $(PYTEST)

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

venv: $(STAMP)

# The CPU build of torch comes first, by its pin: a later range would fetch a CUDA build.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,farm,service,test]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) autotune-out
