# make run | test | lint | docs | look | bench | bench-quick | wheel | clean
#
# Nothing has to be done before: each target first sets up .venv, once, with the versions of .ci/constraints.txt.
# Another interpreter: make test PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Tests and documents run many small operations: one thread each is fastest, and two jobs do not fight for cores.
test lint docs: export OMP_NUM_THREADS ?= 1
export PYTHONUNBUFFERED := 1

.DELETE_ON_ERROR:
.PHONY: run test lint docs look bench bench-quick wheel clean

run: $(VENV)/.run
	$(BIN)/python examples/mmcda_vmr.py

# Tests run in so many processes, one a core but few on a large machine; 0 is this one.
JOBS ?= $(shell n=$$(nproc 2>/dev/null || echo 2); echo $$((n < 8 ? n : 8)))

# Cheap checks first; pytest last, so that its closing line ends the output.
test: $(VENV)/.dev
	$(MAKE) --no-print-directory --jobs=2 --output-sync=target lint docs
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal --doctest-modules mmda tests

lint: $(VENV)/.dev
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy

docs: $(VENV)/.dev
	$(BIN)/python -m sphinx -W --keep-going -q -E -d docs/_build/doctrees -b html docs docs/_build/html
	$(BIN)/python docs/check_pages.py docs/_build/html
	$(BIN)/python -m sphinx -W --keep-going -q -d docs/_build/doctrees -b doctest docs docs/_build/doctest

look: docs
	$(BIN)/python docs/check_browser.py docs/_build/html

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks

bench-quick: $(VENV)/.bench
	$(BIN)/python -m benchmarks --quick

# A release: the source distribution, and built from it the wheel, named after the Linux versions that it serves.
wheel: $(VENV)/.release
	rm -rf build dist
	$(BIN)/python -m build --no-isolation --outdir build/dist
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m auditwheel repair --wheel-dir dist build/dist/*.whl
	cp build/dist/*.tar.gz dist
	$(BIN)/python -m abi3audit --strict dist/*.whl

clean:
	rm -rf build dist docs/_build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find mmda tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp a set of extras; the larger sets hold the smaller ones.
$(VENV)/.run: EXTRAS := vmr,plots
$(VENV)/.dev: EXTRAS := dev
$(VENV)/.bench: EXTRAS := dev,bench
$(VENV)/.release: EXTRAS := release

$(VENV)/.run $(VENV)/.dev $(VENV)/.bench $(VENV)/.release: pyproject.toml .ci/constraints.txt mmda/_engine/_sweeps.c mmda/_engine/_sweeps.h
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	rm -f mmda/_engine/_sweeps.*.so
	$(BIN)/python -m pip install --disable-pip-version-check -c .ci/constraints.txt -e '.[$(EXTRAS)]'
	@touch $@ $(if $(filter dev%,$(EXTRAS)),$(VENV)/.run $(VENV)/.dev)
