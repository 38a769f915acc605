# make demo: upscale a real photo.  make test: every law.  make docs: the site, in build/docs.
# Each sets up .venv first, once.

PYTHON ?= python3
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
TORCH := $(shell grep '^torch==' requirements.lock)

.PHONY: demo test install check docs notebooks clean

demo: install
	$(BIN)/crnet demo

test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile

check: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: .venv/installed-docs
	$(BIN)/python -m sphinx -W --keep-going -q -d build/doctrees docs build/docs

# Execute the notebooks and keep their outputs.
notebooks: .venv/installed-docs
	$(BIN)/python notebooks/execute.py

install: .venv/installed

# The CPU build of torch, which the package index alone does not give on Linux: from a wheel
# folder that pip is configured with, if there is one, or else from PyTorch's own index.
.venv/installed: requirements.lock setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
		"needs Python 3.11 or newer, found " + sys.version.split()[0] + "; make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(PIP) install --quiet --no-deps --no-index $(TORCH) 2>/dev/null \
		|| $(PIP) install --quiet --no-deps --extra-index-url $(TORCH_INDEX) $(TORCH)
	$(PIP) install --quiet -r requirements.lock
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# Sphinx and Jupyter, which nothing else needs.
.venv/installed-docs: .venv/installed requirements-docs.lock
	$(PIP) install --quiet -c requirements.lock -r requirements-docs.lock
	@touch $@

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
