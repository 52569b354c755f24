# make demo   install into .venv, compile the example, run it, show accuracy, size and speed
# make test   install into .venv, run the everyday tests (test-slow: the others, test-all: both; lint: style and types)

VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest --numprocesses auto --dist loadfile
# The first Python in the supported range; set PYTHON to choose another.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$p && break; done)

.PHONY: demo test test-slow test-all lint clean

demo: $(VENV)/installed
	$(BIN)/python examples/demo.py

test: $(VENV)/installed-test
	$(PYTEST) -m "not slow and not models"

test-slow: $(VENV)/installed-test
	$(PYTEST) -m "slow or models"

test-all: test test-slow

# Pyright cannot follow the mapping of passes/ and targets/ into the package, so the tree is laid out as installed.
lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build/typecheck
	mkdir -p build/typecheck
	cp -r qcompiler build/typecheck/
	cp -r passes targets build/typecheck/qcompiler/
	$(BIN)/pyright --pythonpath $(BIN)/python

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "error: needs Python 3.11, 3.12 or 3.13: install one (apt install python3), or set PYTHON" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "error: $(PYTHON) cannot make environments: install the module venv (apt install python3-venv)" >&2; exit 2; }

$(VENV)/installed: pyproject.toml | $(VENV)/bin/python
	@echo "Installing qcompiler and what it needs into $(VENV), about 200 MB to fetch"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/installed-test: pyproject.toml | $(VENV)/bin/python
	@echo "Installing qcompiler, what it needs and its test tools into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,dev]'
	@touch $@ $(VENV)/installed

clean:
	rm -rf build dist demo-out *.egg-info
