# LNSynth on a fresh machine with only Python >= 3.11 and make.
#
#   make demo      the whole chain on a phantom: demo_out/index.html
#   make test      the quick tests            make test-all   the slow ones too
#   make bench     the benchmarks             make lint       ruff and mypy
#   make docs      the documentation: site/index.html
#   make lock      new requirements.lock      make clean      what was built           make distclean  .venv too
#
# The first of them makes .venv and installs the locked versions into it; later ones install nothing.

OK     := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3 python3.12 python3.11 python3.13 python; do \
            $$p -c '$(OK)' 2>/dev/null && { echo $$p; break; }; done)
VENV   := .venv
BIN    := $(VENV)/bin
PIP     = $(BIN)/python -m pip --disable-pip-version-check $(if $(CI),--quiet)
STAMP  := $(VENV)/installed
TESTS  ?= Testing/Python

# Threads that wait by sleeping: spinning ones slow each other down on a busy machine.
export OMP_WAIT_POLICY ?= passive
export MPLBACKEND      ?= Agg

.PHONY: help demo test test-slow test-all bench lint docs lock clean distclean
help:
	@sed -n '3,8s/^#//p' Makefile

$(STAMP): requirements.lock requirements-nodeps.lock pyproject.toml
	@test -n "$(PYTHON)" && $(PYTHON) -c '$(OK)' || { echo "LNSynth needs Python 3.11 or newer with its venv module (python3 here:" \
	  "$$(python3 --version 2>&1)); install it (on Debian: python3 and python3-venv) or name one: make PYTHON=/path/to/python3.12 ..."; exit 1; }
	@echo "Installing the locked versions into $(VENV): some gigabytes, a few minutes, once."
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -r requirements.lock
	$(PIP) install --no-deps -r requirements-nodeps.lock
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(STAMP)
	$(BIN)/lnsynth demo --out demo_out

# Two processes of one thread each, a file's tests in one of them: faster than one process with two threads.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile $(TESTS)

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow $(TESTS)

test-all: $(STAMP)
	$(BIN)/python -m pytest $(TESTS)

# Two need real CTs and are left out (Testing/README.md).
bench: $(STAMP)
	@for f in $(filter-out %/demo_fidelity.py %/planted_copies.py,$(sort $(wildcard Testing/Benchmarks/*.py))); do \
	  echo "== $$f"; $(BIN)/python $$f || exit 1; done

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/python Testing/check_types.py

# Offline; a warning is an error (mkdocs.yml).
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

# Newest versions that pyproject.toml allows, as one set. TotalSegmentator goes in without its drawing packages (see
# requirements-nodeps.lock). Edit the pins below first, run the tests after.
LOCK_PINS := nnunetv2==2.6.0 torch==2.13.0
LOCK_VENV := build/lock-venv
lock:
	rm -rf $(LOCK_VENV) && $(PYTHON) -m venv $(LOCK_VENV)
	$(LOCK_VENV)/bin/python -m pip install --no-deps -r requirements-nodeps.lock
	$(LOCK_VENV)/bin/python -c 'import re; from importlib.metadata import requires; \
	  print(*(r for r in requires("TotalSegmentator") if ";" not in r and \
	  re.match("[A-Za-z0-9_-]+", r)[0] not in ("dipy", "fury", "imgkit", "xvfbwrapper")), sep="\n")' > $(LOCK_VENV)/needs.txt
	$(LOCK_VENV)/bin/python -m pip install ".[bundle,docs,fetch,test]" hatchling $(LOCK_PINS) -r $(LOCK_VENV)/needs.txt
	{ sed -n '/^#/p' requirements.lock; $(LOCK_VENV)/bin/python -m pip freeze --all --exclude pip --exclude lnsynth \
	  --exclude TotalSegmentator | sed 's/+[a-z0-9.]*$$//'; } > $(LOCK_VENV)/lock && mv $(LOCK_VENV)/lock requirements.lock

clean:
	rm -rf build dist demo_out site .pytest_cache .ruff_cache .hypothesis
	find LNSynthLib Testing -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
