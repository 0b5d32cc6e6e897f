# Everything runs in .venv, which the first target that needs it creates.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help install dev demo test test-long reliability fuzz lint bench docs clean

help:  ## this list
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

.venv/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "regard needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

.venv/.developed: .venv/.installed
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

install: .venv/.installed  ## the environment with regard in it

dev: .venv/.developed  ## the same with the tools of development

demo: install  ## the main job on handwritten digits: a small ViT against a small CNN, minutes on two cores
	$(BIN)/regard compare digits --models vit_nano_patch4_32,resnet20_32 --methods scratch --img-size 16 \
	  --seeds 2 --fractions 0.1,0.3,1 --images-seen 16000 --out runs/demo --resume

test: dev  ## the tests
	$(BIN)/python -m pytest

test-long: dev  ## the tests with full counts and full-size models
	$(BIN)/python -m pytest -m "long or not long"

reliability: dev  ## the promises of docs/reliability.md with full counts, and the page itself
	$(BIN)/python -m pytest -m "long or not long" --record tests/reliability
	$(BIN)/python tests/reliability/write_table.py

FUZZ_SECONDS ?= 60
FUZZ_SEED ?= 1
fuzz: dev  ## the readers of foreign files under coverage-guided mutation, a minute each (FUZZ_SECONDS=600 for more, FUZZ_SEED=2 for others)
	for target in weights images tables configs; do \
	  $(BIN)/python fuzz/run.py $$target fuzz/corpus/$$target -seed=$(FUZZ_SEED) -max_total_time=$(FUZZ_SECONDS) || exit 1; done

lint: dev  ## style, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: dev  ## side by side with the peers, on this machine (cifar10.py and verdict_calibration.py take an hour: run them by name)
	for script in benchmarks/decoding.py benchmarks/head.py benchmarks/training_step.py; do echo "## $$script"; $(BIN)/python $$script || exit 1; done

docs: .venv/.developed  ## the site in build/site: the course with what its code printed and drew, documents, API pages
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo build/site/index.html

clean:  ## the environment and caches; runs are kept
	rm -rf .venv .pytest_cache .ruff_cache build dist src/*.egg-info
