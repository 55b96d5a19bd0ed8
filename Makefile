# make demo | test | lint | clean
#
# All of them work in .venv, which is made when there is none and completed when pyproject.toml has changed. Another
# interpreter: make clean, then make PYTHON=python3.12 test. Some tests only: make test ARGS='-k spool'; one at a time:
# make test WORKERS=0.

PYTHON ?= python3
ARGS ?=
WORKERS ?= auto
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test lint clean

demo: $(READY)
	$(BIN)/hypotest demo

test: $(READY)
	$(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# Editable: no copy of ours that could be out of date. The mark tells `clean` that the environment is not the user's own.
$(READY): pyproject.toml
	test -d .venv || { mkdir .venv && touch .venv/.by-make; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $(READY)

clean:
	if test -e .venv/.by-make; then rm -rf .venv; fi
	rm -rf .oracle .mypy_cache .pytest_cache .ruff_cache .hypothesis hypotest_python3_sdk.egg-info
	find $(wildcard hypotest tests stress examples) -name __pycache__ -type d -prune -exec rm -rf {} +
