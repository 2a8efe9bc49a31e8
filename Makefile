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

$(UV): requirements-uv.txt
	@python3 -m venv .tools/uv || { echo "make: python3 needs its venv module (on Debian: apt install python3-venv)"; exit 1; }
	@.tools/uv/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements-uv.txt
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

test: setup
	$(PYTHON) -m pytest

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
