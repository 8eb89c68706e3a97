PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: run test lint bench clean

run: $(READY)
	$(BIN)/headprobe score --model nano --task r2
	$(BIN)/headprobe allocate --budget 128
	$(BIN)/headprobe plot

test: lint
	$(BIN)/pytest -q

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)
	$(BIN)/python tests/benchmarks/peer.py
	$(BIN)/python tests/benchmarks/peer.py --model random-8x512 --lengths 1000:4000:4 --decode forced
	$(BIN)/python tests/benchmarks/memory.py
	$(BIN)/python tests/benchmarks/growth.py
	$(BIN)/python tests/benchmarks/decode.py

clean:
	rm -rf $(VENV)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@
