# `make demo` and `make test` set everything up in .venv from nothing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Two processes of pytest: the files of tests are shared out, one of the two has the Ray cluster.
IN_TWO := -n 2 --dist loadgroup

.PHONY: demo test test-slow lint types docs format clean

$(BIN)/acoustic-env: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable .
	touch $@

# What only the tests, the documentation, Ray Serve and the published TF-Hub models need.
$(VENV)/.dev: $(BIN)/acoustic-env
	$(BIN)/pip install --quiet --editable '.[serve,tensorflow,dev,docs]'
	touch $@

demo: $(BIN)/acoustic-env
	$(BIN)/acoustic-env demo --out demo-out

test: $(VENV)/.dev
	$(BIN)/python -m pytest $(IN_TWO)

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest $(IN_TWO) -m slow --timeout 1800

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) demo-out site .mypy_cache .ruff_cache .pytest_cache .hypothesis
