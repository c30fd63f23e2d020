# Everything runs from .venv, which the first target makes. Once it is there, nothing is downloaded.
# Paths are relative on purpose: the clone may be in a folder with spaces, and may be moved.

PYTHON ?= python3
UV ?= uv

VENV := .venv
PY := $(VENV)/bin/python
RUN := $(VENV)/bin/darkroom
PIP := $(PY) -m pip --disable-pip-version-check --no-input

# A virtual environment is made again when its Python is gone (an upgrade of the system), or when PYTHON is given
# and names another version.
ifneq ($(shell $(PY) -c 'print("works")' 2>/dev/null),works)
STALE := stale
else ifneq ($(origin PYTHON),file)
ifneq ($(shell $(PY) -V 2>&1),$(shell $(PYTHON) -V 2>&1))
STALE := stale
endif
endif

MAKEFLAGS += --no-builtin-rules
.DELETE_ON_ERROR:
.PHONY: help setup setup-dev setup-clients setup-bench demo up test test-unit conformance-gaps check docs audit fmt bench chaos lock clean stale

help:  ## List the targets.
	@sed -n 's/^\([a-z-]*\):.*  ## /  make \1\t/p' Makefile | expand -t 20

setup: $(VENV)/runtime.lock $(RUN)  ## Make .venv and install what the service needs.

setup-dev: $(VENV)/dev.lock $(RUN)  ## Install what tests and checks need, too.

# Only some tests need them, and they come from npm's registry, too: make test skips those tests without.
setup-clients: setup-dev  ## Install other services' clients for the tests: JavaScript packages, LiteLLM.
	@$(PY) -m tests.clients.install

demo: setup  ## Run one job through the whole service and show the image's path.
	@$(RUN) demo

up: setup  ## Run the whole service here until Ctrl-C.
	@$(RUN) up

# Empty is as good as unset: where it is set, the hundreds of processes the tests start would each compile our code.
test test-unit: export PYTHONDONTWRITEBYTECODE =

test: setup-dev  ## Run every test, one more at once than there are cores.
	@$(PY) -m pytest -q -n $$(($$(nproc) + 1))

# One process more than there are cores, for some of these tests wait for a process of their own.
test-unit: setup-dev  ## Run the unit tests alone.
	@$(PY) -m pytest -q -n $$(($$(nproc) + 1)) tests/unit

conformance-gaps: setup-dev  ## Print which conformance cases are not asked of which adapter, and why.
	@PYTHONPATH=tests/contract $(PY) -m conformance.gaps

check: setup-dev  ## Format, lint, types, import rules, complete providers, the documentation's links.
	@$(PY) -m ruff format --check .
	@$(PY) -m ruff check .
	@$(PY) -m mypy
	@$(PY) -c 'from importlinter.cli import lint_imports_command as check; check()'
	@$(PY) -m providers.check
	@$(SITE)

docs: setup-dev  ## Build the documentation site into build/site; a dead link is an error.
	@$(SITE)
	@echo build/site/index.html

# Not by --quiet, which would also switch --strict off: warnings that are not logged are not counted.
SITE = mkdir -p build && NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict >build/site.log 2>&1 || { cat build/site.log; exit 1; }

# Exit status 2, and a sentence, where the service cannot be asked: that is no clean bill.
audit: setup-dev  ## Ask for known vulnerabilities of what is locked, where that service can be reached.
	@$(PY) deploy/audit.py requirements.lock

fmt: setup-dev  ## Format the code and fix what the linter can fix.
	@$(PY) -m ruff format .
	@$(PY) -m ruff check --fix .

setup-bench: setup-dev  ## Install LiteLLM's proxy, which make bench then measures next to us.
	@test -e bench/.venv-litellm/bin/litellm || { $(PY) -m venv --clear bench/.venv-litellm && \
		bench/.venv-litellm/bin/python -m pip install -qq --no-input --require-hashes -r bench/litellm.lock; }

bench: setup-dev  ## Measure, and print the table.
	@$(PY) -m bench

CHAOS_MINUTES ?= 10

chaos: setup  ## Kill and cut off everything under load for CHAOS_MINUTES (10), then check every promise.
	@$(RUN) chaos --minutes $(CHAOS_MINUTES)

lock:  ## Resolve pyproject.toml again into both lock files (needs uv).
	@command -v $(UV) >/dev/null || { echo "make lock needs uv (pip install uv), or UV=path"; exit 1; }
	$(UV) pip compile $(LOCK_FLAGS) --extra embedded -o requirements.lock pyproject.toml
	$(UV) pip compile $(LOCK_FLAGS) -c requirements.lock -o requirements-container.lock pyproject.toml
	$(UV) pip compile $(LOCK_FLAGS) --extra embedded --extra dev -c requirements.lock -o requirements-dev.lock pyproject.toml

LOCK_FLAGS := --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
	--no-header --no-annotate --upgrade --quiet

clean:  ## Remove .venv and the caches; the service's data (var/) stays.
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The copy of a lock file in .venv says what is installed: a newer date alone installs nothing.
$(VENV)/runtime.lock: requirements.lock $(VENV)/made
	@cmp -s requirements.lock $@ || { echo "installing (once) ..."; $(PIP) install --quiet --require-hashes -r requirements.lock; }
	@cp requirements.lock $@

$(VENV)/dev.lock: requirements-dev.lock $(VENV)/runtime.lock
	@cmp -s requirements-dev.lock $@ || { echo "installing the tools (once) ..."; $(PIP) install --quiet --require-hashes -r requirements-dev.lock; }
	@cp requirements-dev.lock $@

# Written last, so that an interrupted creation starts again.
$(VENV)/made: $(STALE)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
		echo "this Python cannot make virtual environments (Debian: apt install python3-venv)"; exit 1; }
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@touch $@

stale:

# Our packages are found by a relative line in a .pth file, so that nothing has to be built.
$(RUN): $(VENV)/made Makefile
	@for site in $(VENV)/lib/python3*/site-packages; do echo ../../../.. > "$$site/darkroom.pth"; done
	@printf '%s\n' '#!/bin/sh' \
		'here=$$(dirname "$$(readlink -f "$$0")")' \
		'exec "$$here/python" -P -c "import sys; sys.argv[0] = \"darkroom\"; from app.cli import main; sys.exit(main())" "$$@"' \
		> $@
	@chmod +x $@
