# Every target sets up what it needs. `make setup` is instant when nothing has changed.

PYTHON ?= python3
RUN := .venv/bin/python

.PHONY: setup demo test check bench

setup: .venv/ready

.venv/ready: tools/install/setup.sh $(wildcard tools/install/*.txt packages/*/pyproject.toml)
	@PYTHON=$(PYTHON) sh tools/install/setup.sh
	@touch $@

# MODEL=<hub id> uses a real model; without it, a tiny one is trained here first.
demo: setup
	@$(RUN) examples/service/vllm/vllm_service_demo.py $(if $(MODEL),--model $(MODEL))

test: setup
	@$(RUN) -m pytest $(ARGS)

check: setup
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy packages/*/src examples benchmarks

bench: setup
	@$(RUN) benchmarks/pipeline_throughput.py $(ARGS)
	@$(RUN) benchmarks/registry.py
