PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# kvpress wants an older transformers.
KVPRESS := .venv-kvpress
KVPRESS_READY := $(KVPRESS)/.ready
# The lowest versions that the package takes.
OLDEST := .venv-oldest
OLDEST_READY := $(OLDEST)/.ready
# A file's tests share what it scores, so they stay in one worker; slow files come first.
PYTEST := pytest -q -n 2 --dist loadfile --no-loadscope-reorder
# A pretrained chat model, and what is drawn of it.
MODELS := .models
SMOLLM2 := $(MODELS)/smollm2-135m.gguf
REAL := outputs/smollm2-135m

.PHONY: run real docs test test-fast test-kvpress test-oldest test-real fuzz chaos lint bench bench-cuda clean

run: $(READY)
	$(BIN)/headprobe score --model nano --task r2
	$(BIN)/headprobe allocate --budget 128
	$(BIN)/headprobe plot

real: $(READY) $(SMOLLM2)
	$(BIN)/headprobe score --model $(SMOLLM2) --task retrieval --lengths 250,500,1000 --depths 0,50,100 --limit 36 --out $(REAL)/retrieval
	$(BIN)/headprobe allocate $(REAL)/retrieval --budget 64
	$(BIN)/headprobe evaluate --model $(SMOLLM2) --scores $(REAL)/retrieval --budget 12%,50% --lengths 500 --limit 12 --out $(REAL)/evaluate-retrieval
	$(BIN)/headprobe plot $(REAL)/retrieval

docs: run
	$(BIN)/python -m headprobe.cli.reference > docs/cli.md
	$(BIN)/headprobe plot outputs/nano/r2 outputs/nano/r2/budget-headkv-128.json --out docs/heads.png

test: lint
	$(BIN)/$(PYTEST)

test-fast: $(READY)
	$(BIN)/$(PYTEST) -m "not slow and not real"

test-kvpress: $(KVPRESS_READY)
	$(KVPRESS)/bin/pytest -q -W "ignore:'pipes' is deprecated" tests/formats/test_press.py tests/compression/test_press_scores.py tests/measures/test_press_measures.py

test-real: $(READY) $(KVPRESS_READY) $(SMOLLM2)
	$(BIN)/pytest -q -m real tests/real
	$(KVPRESS)/bin/pytest -q -m real -W "ignore:'pipes' is deprecated" tests/real/test_press.py

test-oldest: $(OLDEST_READY)
	$(OLDEST)/bin/$(PYTEST)

fuzz: $(READY)
	$(BIN)/python -W ignore -m tests.hostile --each 250

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Seconds of all threads are counted, so there is one.
bench: export OMP_NUM_THREADS := 1
bench: $(READY) $(KVPRESS_READY) $(SMOLLM2)
	$(BIN)/python tests/benchmarks/startup.py --most 1.25
	$(BIN)/python tests/benchmarks/peer.py --most 1.5
	$(BIN)/python tests/benchmarks/peer.py --model random-8x512 --lengths 1000:4000:4 --decode forced --most 1.25
	$(BIN)/python tests/benchmarks/peer.py --model $(SMOLLM2) --lengths 500,1000 --depths 0,50,100 --decode forced --sample 2 --rounds 1 --most 1.5
	$(BIN)/python tests/benchmarks/memory.py --most 1.2
	$(BIN)/python tests/benchmarks/growth.py
	$(BIN)/python tests/benchmarks/decode.py --most 1.25
	$(BIN)/python tests/benchmarks/evaluate.py --least-gain 5
	$(BIN)/python tests/benchmarks/evaluate.py --model $(SMOLLM2) --dtype bfloat16 --questions 1 --budgets 64 --least-gain 3
	$(KVPRESS)/bin/python -W ignore tests/benchmarks/pipeline.py --least-gain 3
	$(BIN)/python tests/benchmarks/ablate.py --least-gain 0.9
	$(BIN)/python tests/benchmarks/greedy.py --most 1.5
	$(BIN)/python tests/benchmarks/greedy.py --model $(SMOLLM2) --task retrieval --dtype bfloat16 --lengths 1000,2000 --rounds 1 --most 1.75

# On a card; CHAT is the directory or hub id of a chat model.
bench-cuda: CUDA := --device cuda --dtype bfloat16
bench-cuda: CHAT ?= Qwen/Qwen2.5-Coder-0.5B-Instruct
bench-cuda: $(READY)
	$(BIN)/python tests/benchmarks/peer.py --model llama3-8b --lengths 1000:10000:10 --needles 2 --decode forced $(CUDA) --most 1.15
	$(BIN)/python tests/benchmarks/greedy.py --model $(CHAT) --task retrieval --lengths 1000:10000:10 --limit 64 $(CUDA) --most 1.5
	$(BIN)/python tests/benchmarks/evaluate.py --model qwen2.5-0.5b --questions 20 --tokens 4000 --max-new-tokens 32 --budgets 64,128,256,512,1024 $(CUDA) --least-gain 20
	$(BIN)/python tests/benchmarks/ablate.py --model $(CHAT) --task retrieval --lengths 1000 --limit 12 --top-k 1,2,4,8 --random-draws 5 $(CUDA) --least-gain 2
	$(BIN)/python tests/benchmarks/decode.py --models llama3-8b --lengths 32768,131072 $(CUDA)
	$(BIN)/python tests/benchmarks/memory.py --model llama3-8b --lengths 8192,32768,131072 $(CUDA)

chaos: $(READY)
	$(BIN)/python tests/hostile/chaos.py --kills 100 --signals 100

clean:
	rm -rf $(VENV) $(KVPRESS) $(OLDEST) $(MODELS)

$(SMOLLM2): tests/real/fetch.py | $(READY)
	$(BIN)/python tests/real/fetch.py $(MODELS)
	touch $@

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

$(KVPRESS_READY): pyproject.toml constraints-kvpress.txt
	$(PYTHON) -m venv $(KVPRESS)
	$(KVPRESS)/bin/pip install --quiet --constraint constraints-kvpress.txt torch
	$(KVPRESS)/bin/pip install --quiet --constraint constraints-kvpress.txt --editable ".[gguf]" kvpress beartype hypothesis pytest
	touch $@

$(OLDEST_READY): pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/pip install --quiet --constraint constraints-oldest.txt torch
	$(OLDEST)/bin/pip install --quiet --constraint constraints-oldest.txt --editable ".[accelerate,benchmarks,gguf,peft]" beartype hatchling hypothesis ipykernel nbclient playwright pytest pytest-xdist rouge-score
	touch $@
