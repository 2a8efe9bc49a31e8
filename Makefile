# `make demo` and `make test` are all a newcomer needs: each first sets up what is missing.
SHELL := /bin/bash
.DELETE_ON_ERROR:
.PHONY: setup demo test lint bench clean lock

PYTHON := .venv/bin/python
UV := .tools/uv/bin/uv
# Everything but the package cache stays inside the clone.
export UV_PYTHON_INSTALL_DIR := $(CURDIR)/.tools/python
export PYTHONPATH := $(CURDIR)
ifdef PIP_INDEX_URL
export UV_DEFAULT_INDEX := $(PIP_INDEX_URL)
endif
EXTRAS ?=

setup: .venv/.ready .venv/.kernels $(foreach extra,$(EXTRAS),.venv/.extra-$(extra))

# uv is a program in a Python package: any Python 3 installs it, whatever versions the package's own metadata asks for.
$(UV): requirements-uv.txt requirements-pip.txt
	@for python in python3 /usr/bin/python3 /usr/local/bin/python3; do \
	  $$python -c 'import ensurepip, venv' 2>/dev/null && $$python -m venv .tools/uv && exit; done; \
	  echo "make: no python3 with the venv module (on Debian: apt install python3-venv)"; exit 1
	@for file in requirements-pip.txt requirements-uv.txt; do \
	  .tools/uv/bin/python -m pip install -q --disable-pip-version-check --ignore-requires-python --require-hashes \
	    -r $$file || exit; done
	@touch $@

.venv/.ready: requirements.txt requirements-dev.txt $(UV)
	@$(UV) venv -q --allow-existing --python 3.10 .venv
	$(UV) pip install -q --python $(PYTHON) --require-hashes -r requirements.txt -r requirements-dev.txt
	@touch $@

# The kernels are an extra: without a compiler everything runs, slower, and one line says so.
.venv/.kernels: .venv/.ready $(wildcard kernels/*.py kernels/src/* kernels/src/*/*)
	@$(PYTHON) -m kernels build || true
	@touch $@

.venv/.extra-%: requirements-%.txt .venv/.ready
	$(UV) pip install -q --python $(PYTHON) --require-hashes -r $<
	@touch $@

demo: setup
	@$(PYTHON) examples/demo.py $(if $(OWN_TEXT),--text "$(OWN_TEXT)")

# Files of whole runs have a process each: OneFlow has crashed after hundreds of compiled jobs in one.
test: setup
	@failed=; for files in "tests --ignore=tests/training --ignore=tests/tasks" tests/tasks/test_*.py tests/training/test_*.py; do \
	  echo "pytest $$files"; $(PYTHON) -m pytest $$files || failed="$$failed $$files"; done; \
	  [ -z "$$failed" ] || { echo "failed: $$failed"; exit 1; }

bench: setup
	@$(PYTHON) -m benchmarks $(if $(ONLY),--only $(ONLY)) \
	  $(if $(SQUAD_FILE),--squad_file "$(SQUAD_FILE)") $(if $(VOCAB_FILE),--vocab_file "$(VOCAB_FILE)")

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

clean:
	rm -rf .venv .tools kernels/lib .pytest_cache .mypy_cache .ruff_cache .hypothesis build demo_output squad_output

# Pins move only on purpose: edit pyproject.toml, `make lock`, read the diff.
COMPILE = $(UV) pip compile -q --python-version 3.10 --generate-hashes --no-emit-index-url --no-annotate --no-header pyproject.toml
lock: $(UV)
	$(COMPILE) -o requirements.txt
	$(COMPILE) --extra dev -c requirements.txt -o requirements-dev.txt
	$(COMPILE) --extra tensorflow -c requirements.txt -o requirements-tensorflow.txt
	$(COMPILE) --extra ray -c requirements.txt -o requirements-ray.txt
	$(COMPILE) --extra serve -c requirements.txt -o requirements-serve.txt
