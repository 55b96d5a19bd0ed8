# make demo | test | hosts | lint | clean
#
# All of them work in .venv, which is made when there is none and completed when pyproject.toml has changed: by `make demo`
# with what that needs, by the others with all the rest. Another interpreter: make clean, then make PYTHON=python3.12
# test. Some tests only: make test ARGS='-k spool'; one at a time: make test WORKERS=0. The matrix of hosts as often as
# you like, and its table in docs/hosts.md: make hosts RUNS=20.

PYTHON ?= python3
ARGS ?=
WORKERS ?= auto
RUNS ?= 1
BIN := .venv/bin
VENV := .venv/.made
DEMO := .venv/.demo
READY := .venv/.ready
HOSTS := tests/hosts/requirements.txt
ALL := .venv/.hosts
INSTALL := .ci/again $(BIN)/python -m pip install --quiet

# The tests start thousands of processes: twice the time if each compiles the package anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test hosts lint clean

demo: $(DEMO)
	$(BIN)/hypotest demo

test: $(ALL)
	$(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

hosts: $(ALL)
	rm -rf .rows
	for run in $$(seq $(RUNS)); do HOSTS_ROWS=.rows $(BIN)/python -m pytest -q -n $(WORKERS) tests/hosts $(ARGS) || exit 1; done
	$(BIN)/python -m tests.hosts.table .rows

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# The mark tells `clean` that the environment is not the user's own.
$(VENV):
	test -d .venv || { mkdir .venv && touch .venv/.by-make; }
	$(PYTHON) -m venv .venv
	touch $(VENV)

# Editable: no copy of ours that could be out of date. The demo needs a fifth of what the tests do, and whoever has what
# the tests need has that too.
$(DEMO): pyproject.toml | $(VENV)
	test $(READY) -nt pyproject.toml || $(INSTALL) --editable '.[demo]'
	touch $(DEMO)

$(READY): pyproject.toml | $(VENV)
	$(INSTALL) --editable '.[dev]'
	touch $(READY)

# A host, or a peer of the benchmark, that cannot be installed here is left out, and its tests say so.
$(ALL): $(HOSTS) $(READY)
	$(INSTALL) --requirement $(HOSTS) || \
		grep -v '^#' $(HOSTS) | while read -r host; do \
			$(BIN)/python -m pip install --quiet "$$host" || echo "left out: $$host"; \
		done
	$(INSTALL) --editable '.[bench]' || echo "left out: the benchmark's peers"
	touch $(ALL)

clean:
	if test -e .venv/.by-make; then rm -rf .venv; fi
	rm -rf build dist .oracle .rows .mypy_cache .pytest_cache .ruff_cache .hypothesis hypotest_python3_sdk.egg-info
	find $(wildcard hypotest tests stress examples) -name __pycache__ -type d -prune -exec rm -rf {} +
