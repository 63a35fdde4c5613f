# `make` lists the targets. Each installs first whatever it needs.

PYTHONS = python3 python3.13 python3.12 python3.11 python3.10
PYTHON ?= $(shell for python in $(PYTHONS); do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null \
	&& command -v "$$python" && break; done)
VENV ?= .venv
STAMP := $(VENV)/.installed
BIN := $(VENV)/bin

# Two test processes with one BLAS thread each: threads of both would compete for the same cores.
TESTFLAGS ?= -n 2 --dist loadfile
PYTEST = OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 $(BIN)/python -m pytest

.PHONY: help install demo test test-fast test-providers oldest trixie check format docs linkcheck bench clean distclean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "PYTHON=...    interpreter to build $(VENV) with, 3.10 or later"
	@echo "VENV=...      folder of the virtual environment"
	@echo "ROOT=...      folder for make trixie; MIRROR=... where its packages come from"
	@echo "TESTFLAGS=... options for pytest, e.g. TESTFLAGS='-x -k cholesky'"
	@echo "BENCHFLAGS=.. options for benchmarks.aims: --long, --base CHECKOUT, --gpboost-python PATH"

install: $(STAMP) ## set up .venv with the package and all its extras, and compile its loops
	$(BIN)/python -m sparselmm warm

demo: $(STAMP) ## fit two models from the command line
	$(BIN)/python -m sparselmm demo

test: $(STAMP) ## run the whole test suite
	$(PYTEST) $(TESTFLAGS)

test-fast: $(STAMP) ## run the tests that are not marked slow
	$(PYTEST) $(TESTFLAGS) -m "not slow"

test-providers: $(STAMP) ## run models and reference fits with cvxopt's CHOLMOD, and with LAPACK alone
	$(BIN)/python -m pip install -q cvxopt
	for provider in cvxopt none; do SPARSELMM_CHOLMOD=$$provider $(PYTEST) $(TESTFLAGS) \
		tests/base/test_cholesky.py tests/base/test_providers.py tests/factor/test_solvers.py \
		tests/likelihood/test_deviance.py tests/model/test_reference.py || exit 1; done

oldest: ## run the fast tests with the oldest requirements, in .venv-oldest; PYTHON=python3.10
	tools/oldest.sh "$(PYTHON)" .venv-oldest

trixie: ## run demo and tests in a Debian 13 built in the folder ROOT; needs root and debootstrap
	tools/debian13.sh "$(ROOT)"

check: $(STAMP) ## lint, formatting, spelling and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy

format: $(STAMP) ## rewrite the files as `make check` wants them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP) ## build the documentation, executing every page, and check its links
	$(BIN)/python -m sphinx -E -W --keep-going -b html docs docs/_build/html
	$(BIN)/python tools/check_pages.py docs/_build/html

linkcheck: $(STAMP) ## visit the addresses the documentation links to; runs no page
	$(BIN)/python -m sphinx -E -q -b linkcheck -D nb_execution_mode=off docs docs/_build/linkcheck

bench: $(STAMP) ## run the benchmarks: linear models, scripts, other classes of models, large data
	PYTHONPATH=tests $(BIN)/python -m benchmarks
	PYTHONPATH=tests $(BIN)/python -m benchmarks.scripts
	PYTHONPATH=tests OPENBLAS_NUM_THREADS=1 $(BIN)/python -m benchmarks.model_classes
	PYTHONPATH=tests OPENBLAS_NUM_THREADS=1 $(BIN)/python -m benchmarks.aims $(BENCHFLAGS)

clean: ## remove what was built, keep .venv
	rm -rf build dist docs/_build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find sparselmm tests tools docs data -name __pycache__ -exec rm -rf {} +

distclean: clean ## remove .venv as well
	rm -rf $(VENV)

$(STAMP): setup.cfg pyproject.toml tools/bootstrap.py
	@test -n "$(PYTHON)" || { echo "sparselmm needs Python 3.10 or later; none of" \
		"$(PYTHONS) is. Name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	"$(PYTHON)" tools/bootstrap.py $(VENV)
	@touch $@
