# Every target sets up what it needs. `make setup` is instant when nothing has changed.

PYTHON ?= python3
RUN := .venv/bin/python

.PHONY: setup demo demo-cluster test test-cluster test-tuning check zoo bench docs

setup: .venv/ready

.venv/ready: tools/install/setup.sh tools/install/requirements-cpu.txt \
		tools/install/requirements-dev.txt $(wildcard packages/*/pyproject.toml)
	@PYTHON=$(PYTHON) sh tools/install/setup.sh
	@touch $@

# MODEL=<hub id> uses a real model; without it, a tiny one is trained here first.
demo: setup
	@$(RUN) examples/service/vllm/vllm_service_demo.py $(if $(MODEL),--model $(MODEL))

# Two nodes of Ray on this machine, of which one is killed in the middle of a run.
demo-cluster: setup
	@$(RUN) examples/service/vllm/cluster_job.py --demo

test: setup
	@$(RUN) -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder $(ARGS)

# The runs of fine-tuning that last minutes each: seeds, kills, spoiled examples.
test-tuning: setup
	@$(RUN) -m pytest -s -o python_files=long_*.py packages/sage-tuning/tests/long $(ARGS)

# What a cluster survives, many times over: some ten minutes.
test-cluster: setup
	@$(RUN) -m pytest packages/sage-kernel/tests/cluster/cluster_suite.py $(ARGS)

check: setup
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy packages/*/src examples benchmarks

# Compares many architectures with transformers, and writes the table of model_zoo.md anew.
zoo: setup
	@$(RUN) packages/sage-common/tests/sage_vllm/zoo/table.py

bench: setup
	@$(RUN) benchmarks/pipeline_throughput.py $(ARGS)
	@$(RUN) benchmarks/prefix_order.py
	@$(RUN) benchmarks/busy_neighbour.py
	@$(RUN) benchmarks/service_latency.py
	@$(RUN) benchmarks/asyncio_calls.py
	@$(RUN) benchmarks/tool_turns.py
	@$(RUN) benchmarks/coroutines.py $(ARGS)
	@$(RUN) benchmarks/replicas.py $(ARGS)
	@$(RUN) benchmarks/embedding_throughput.py $(ARGS)
	@$(RUN) benchmarks/scoring.py $(ARGS)
	@$(RUN) benchmarks/pictures.py $(ARGS)
	@$(RUN) benchmarks/named_models.py $(ARGS)
	@$(RUN) benchmarks/result_cache.py $(ARGS)
	@$(RUN) benchmarks/against_others.py $(ARGS)
	@$(RUN) benchmarks/cluster.py $(ARGS)
	@$(RUN) benchmarks/registry.py
	@$(RUN) benchmarks/fine_tuning.py $(ARGS)
	@$(RUN) benchmarks/start_to_answer.py
	@$(RUN) tools/docs/charts.py

# Writes the generated references anew and builds the site into docs-public/site.
docs: .venv/docs-ready
	@$(RUN) tools/docs/cli_reference.py
	@$(RUN) tools/docs/operator_reference.py
	@NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --quiet --strict -f docs-public/mkdocs.yml
	@echo "docs-public/site/index.html"

.venv/docs-ready: .venv/ready tools/install/requirements-docs.txt
	@$(RUN) -m pip --quiet --disable-pip-version-check install \
		-r tools/install/requirements-docs.txt
	@touch $@
