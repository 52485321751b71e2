# The two commands: `make demo` and `make test`.  Each makes its own virtual environment first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PROGRAMS ?= 500
SEED ?= 1
# An installer compiles what it installs; of a checkout every process of a pager would compile all that
# it loads (110 ms), each time where PYTHONDONTWRITEBYTECODE is set.
COMPILED = $(BIN)/python -m compileall -q

.DEFAULT_GOAL := help
.PHONY: help demo test lab stress mutants lint bench clean

help:
	@echo "make demo   restore a real memory image page fault by page fault, on every memory type"
	@echo "make test   run the tests"
	@echo "make lab    statements and random programs on the other kernels of the lab in QEMU (PROGRAMS=500; long)"
	@echo "make stress kill the pager's processes 1,000 times, and at every system call (some minutes)"
	@echo "make lint   ruff, mypy --strict, import-linter"
	@echo "make bench  our code and C in one run (some minutes)"
	@echo "make mutants put errors into the model and show which check notices each (some minutes)"
	@echo "make clean  remove the virtual environment and caches"

$(VENV)/.made: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "userfault needs Python 3.11 or newer: set PYTHON=..."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { echo "cannot make a virtual environment: on Debian, apt-get install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.made
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check 'gevent>=24' 'uvloop>=0.19' \
	  || echo "gevent and uvloop are not to be had: the tests of programs that use them are skipped"
	@touch $@

demo: $(VENV)/.made
	@$(COMPILED) src
	$(BIN)/userfault demo
	$(BIN)/userfault vm run --if-there

test: $(VENV)/.dev
	@$(COMPILED) src tests
	$(BIN)/python -m pytest -n 2 --dist loadgroup $(ARGS)

lab: $(VENV)/.made
	$(BIN)/userfault lab fetch --qemu
	$(BIN)/userfault lab run all -- check
	$(BIN)/userfault lab run all -- check --fuzz --programs $(PROGRAMS) --seed $(SEED)

stress: $(VENV)/.dev
	@$(COMPILED) src tests
	$(BIN)/python -m tests.stress $(ARGS)
	$(BIN)/python -m tests.stress --every-call 1
	$(BIN)/python -m tests.stress --refuse-calls 1
	$(BIN)/python -m tests.stress --limits

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.dev
	$(BIN)/python -m bench all

mutants: $(VENV)/.dev
	PYTHONPATH=tests $(BIN)/python -m mutants $(ARGS)

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
