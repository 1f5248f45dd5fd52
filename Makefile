# Everything below makes its own environment in .venv; nothing else on the machine changes.
PYTHON ?= $(shell for name in python3.11 python3.12 python3.13 python3; do command -v $$name && break; done || echo python3)
VENV ?= .venv
WORKERS ?= 2
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help quickstart test slow torture coverage check format clean

help: ## show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-12s %s\n", $$1, $$2}'

quickstart: $(VENV)/quickstart ## install, fine-tune on synthetic images, show what came out (minutes, no data needed)
	$(BIN)/finetune train experiment=quickstart

test: $(VENV)/dev ## install the tools too and run the whole test suite
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not slow and not alone"
	$(BIN)/python -m pytest -m "alone and not slow" tests/data tests/end_to_end

slow: $(VENV)/dev ## the tests that take minutes (a quarter of an hour or more on two cores)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "slow and not alone"
	$(BIN)/python -m pytest -m "slow and alone"

torture: $(VENV)/dev ## kill small trainings 100 times and compare how they end (half an hour)
	$(BIN)/python -m tests.end_to_end.torture $(VENV)/torture --kills 100

coverage: $(VENV)/dev ## try every timm model under every head and write docs/backbones.md (two hours; may be interrupted)
	$(BIN)/python benchmarks/coverage.py $(VENV)/backbones.csv
	mv $(VENV)/backbones.csv finetune/catalog/backbones.csv
	$(BIN)/python benchmarks/coverage_page.py finetune/catalog/backbones.csv docs/backbones.md

check: $(VENV)/dev ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict finetune

format: $(VENV)/dev ## format and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove the environment and what the tools cached
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache

# a stamp each, so that an installation happens once and again when what it installs changes
$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/quickstart: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[quickstart]' -c constraints.txt
	@touch $@

$(VENV)/dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' -c constraints.txt
	@touch $@
