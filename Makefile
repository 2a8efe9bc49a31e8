# `make demo` and `make test` are all a newcomer needs: both set up what is missing.
SHELL := /bin/bash
.DELETE_ON_ERROR:
.PHONY: setup demo test lint bench licences clean lock FORCE

PYTHON := .venv/bin/python
UV := .tools/uv/bin/uv
# Everything except the package cache stays inside the clone.
export UV_PYTHON_INSTALL_DIR := $(CURDIR)/.tools/python
export PYTHONPATH := $(CURDIR)
ifdef PIP_INDEX_URL
export UV_DEFAULT_INDEX := $(PIP_INDEX_URL)
endif
# Optional packages to install as well: `make setup EXTRAS="tensorflow ray"`.
EXTRAS ?=
ALL_EXTRAS := dev tensorflow ray serve onnx sweep

# A virtual environment holds absolute paths. If the clone was moved, build the environment again.
MOVED := $(shell [ ! -e .venv/bin/activate ] || grep -qF "$$(realpath .venv)" .venv/bin/activate || echo yes)

setup: .venv/.ready .venv/.kernels $(foreach extra,$(EXTRAS),.venv/.extra-$(extra))

# uv is a binary in a Python package. Any Python 3 can install it, whatever version the package's metadata asks for.
$(UV): requirements/uv.txt requirements/pip.txt
	@for python in python3 /usr/bin/python3 /usr/local/bin/python3; do \
	  $$python -c 'import ensurepip, venv' 2>/dev/null && $$python -m venv .tools/uv && exit; done; \
	  echo "make: no python3 with the venv module was found (on Debian: apt install python3-venv)"; exit 1
	@for file in pip uv; do \
	  .tools/uv/bin/python -m pip install -q --disable-pip-version-check --ignore-requires-python --require-hashes \
	    -r requirements/$$file.txt || exit; done
	@touch $@

.venv/.ready: requirements/base.txt requirements/dev.txt $(UV) $(if $(MOVED),FORCE)
	@$(UV) venv -q $(if $(MOVED),--clear,--allow-existing) --python 3.10 .venv
	$(UV) pip install -q --python $(PYTHON) --require-hashes -r requirements/dev.txt
	@touch $@

# The kernels are optional: without a compiler everything still runs, only slower, and one line says so.
.venv/.kernels: .venv/.ready $(wildcard kernels/*.py kernels/src/* kernels/src/*/*)
	@$(PYTHON) -m kernels build || true
	@touch $@

.venv/.extra-%: requirements/%.txt .venv/.ready
	$(UV) pip install -q --python $(PYTHON) --require-hashes -r $<
	@touch $@

demo: setup
	@$(PYTHON) examples/demo.py $(if $(OWN_TEXT),--text "$(OWN_TEXT)")

test: setup
	@$(PYTHON) -m tests.suite

bench: setup
	@$(PYTHON) -m benchmarks $(if $(ONLY),--only $(ONLY)) \
	  $(if $(SQUAD_FILE),--squad_file "$(SQUAD_FILE)") $(if $(VOCAB_FILE),--vocab_file "$(VOCAB_FILE)")

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

# Of what `make setup` installs; name an extra's file too to list its packages.
licences: setup
	$(PYTHON) -m utils.licences requirements/base.txt requirements/dev.txt > docs/licences.md

# Removes only what `make` itself built: models, logs and data stay.
clean:
	rm -rf .venv .tools kernels/lib .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Pins change only on purpose: edit pyproject.toml, run `make lock`, read the diff.
# An extra's file includes base.txt and lists only what base.txt does not have.
COMPILE = $(UV) pip compile -q --python-version 3.10 --generate-hashes --no-emit-index-url --no-annotate --no-header pyproject.toml
lock: $(UV)
	$(COMPILE) -o requirements/base.txt
	@for extra in $(ALL_EXTRAS); do \
	  $(COMPILE) --extra $$extra -c requirements/base.txt -o requirements/$$extra.txt \
	    $$(sed -n 's/^\([A-Za-z0-9._-]*\)==.*/--no-emit-package \1/p' requirements/base.txt) && \
	  sed -i '1i -r base.txt' requirements/$$extra.txt || exit; done

FORCE:
