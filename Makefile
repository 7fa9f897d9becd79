# Commands for work on this repository; `make help` lists them. They need GNU Make 3.81 or newer and a POSIX shell.

PYTHON ?= python3
WORKERS ?= 2
BIN = .venv/bin
INSTALLED = .venv/.installed

.PHONY: help demo test check format size bench docs clean

help:
	@echo "make demo     run the demo on embedded data, in about 2 minutes; results are in demo_results/"
	@echo "make test     run all tests, in WORKERS=$(WORKERS) processes"
	@echo "make check    run ruff, mypy and import-linter"
	@echo "make format   let ruff format the code and fix what it can"
	@echo "make size     count lines of code per folder, and everything that has a limit"
	@echo "make bench    run the benchmarks, which compare with other software"
	@echo "make docs     build the site in docs/_build/html; a warning, a broken link and a wrong docstring example are errors"
	@echo "make clean    remove caches and demo_results/, but not .venv"
	@echo
	@echo "Each command first creates .venv if it is missing, with PYTHON=$(PYTHON) (3.11 or newer)."

# Made again when the dependencies change. The stamp is written last, so that an interrupted installation starts over.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("neurordl needs Python 3.11 or newer: make PYTHON=python3.12 ..." if sys.version_info < (3, 11) else 0)'
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	@echo "Installing neurordl into .venv (only once; torch is large, so that this can take minutes)"
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

demo: $(INSTALLED)
	$(BIN)/python examples/demo.py --out demo_results

# One thread per process: two processes with one thread each are faster than one process with two threads.
test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

size: $(INSTALLED)
	$(BIN)/python scripts/code_size.py

bench: $(INSTALLED)
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python "$$script" || exit 1; done

.venv/.docs: $(INSTALLED)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	@touch $@

docs: .venv/.docs
	$(BIN)/python -m sphinx -W --keep-going -q -c docs -d docs/_build/doctrees . docs/_build/html
	$(BIN)/python scripts/check_site.py
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/test_docs.py -k docstrings
	@echo "The site is in docs/_build/html: open index.html"

clean:
	rm -rf docs/_build docs/api docs/gallery
	rm -rf demo_results build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -path ./.venv -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +
