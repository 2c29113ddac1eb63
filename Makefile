# `make demo` and `make test` set everything up in .venv from nothing.
FITS := 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))'
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do $$p -c $(FITS) 2> /dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
# Two processes of pytest: the files of tests are shared out, one of the two has the Ray cluster.
IN_TWO := -n 2 --dist loadgroup

.PHONY: demo test test-slow test-simulations lint types docs format clean

$(BIN)/acoustic-env: pyproject.toml constraints.txt
	@test "$(PYTHON)" || { echo "Python 3.11 to 3.13 is needed: install one, or name it, make PYTHON=/path/to/python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

# What only the tests, the documentation, Ray Serve and the published TF-Hub models need.
$(VENV)/.dev: $(BIN)/acoustic-env
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[serve,tensorflow,reference,dev,docs]'
	touch $@

demo: $(BIN)/acoustic-env
	$(BIN)/acoustic-env demo --out demo-out

test: $(VENV)/.dev
	$(BIN)/python -m pytest $(IN_TWO)

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest $(IN_TWO) -m slow --timeout 1800

# The whole grids of simulated promises, more than an hour on two cores; prints a line a cell.
test-simulations: $(VENV)/.dev
	$(BIN)/python -m pytest $(IN_TWO) -m simulation --timeout 3600 -rP

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
