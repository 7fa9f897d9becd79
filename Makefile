# The habits of this repository; `make help` lists them. GNU Make 3.81 and a plain shell are enough.

PYTHON ?= python3
WORKERS ?= 2
BIN = .venv/bin
INSTALLED = .venv/.installed

.PHONY: help demo test check format size bench clean

help:
	@echo "make demo     the main job on embedded data, in about 2 minutes; results go to demo_results/"
	@echo "make test     all tests (WORKERS=2 at a time)"
	@echo "make check    ruff, mypy and the import layers"
	@echo "make format   let ruff rewrite what it can"
	@echo "make size     lines of code per folder, and what has a limit"
	@echo "make bench    the benchmarks beside other software"
	@echo "make clean    remove caches and demo_results/; .venv stays"
	@echo
	@echo "Each makes .venv first where it is missing, with PYTHON=$(PYTHON) (3.11 or newer)."

# Made again when the dependencies change. The stamp comes last: an interrupted install starts over.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("neurordl needs Python 3.11 or newer: make PYTHON=python3.12 ..." if sys.version_info < (3, 11) else 0)'
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	@echo "Installing neurordl into .venv (once; torch is large, this can take minutes)"
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

demo: $(INSTALLED)
	$(BIN)/neurordl demo --out demo_results

# One thread per worker: two workers with one thread each beat one with two, and do not fight for cores.
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

clean:
	rm -rf demo_results build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -path ./.venv -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +
