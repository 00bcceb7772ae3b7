# Two commands do all: `make demo` and `make test`. Each makes .venv and installs what is missing first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: test lint types unit clean

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test,lint,aioquic,servers,qr]'
	touch $@

test: lint types unit

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/flake8 --version >/dev/null 2>&1; $(BIN)/python -m flake8 --select ASYNC iceagent signal examples

types: $(STAMP)
	$(BIN)/mypy
	$(BIN)/basedpyright --level error

unit: $(STAMP)
	$(BIN)/python -m pytest

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
