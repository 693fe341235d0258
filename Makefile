# make demo: the main job on a fresh machine. make test: everything that proves it still works.
# Python 3.11 or newer; nothing but the package index is needed.

PYTHON ?= python3
VENV ?= .venv
# The public index's Linux wheel of torch is the CUDA build, with gigabytes of packages. Name
# PyTorch's CPU wheels to avoid it: make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
# How many tests run at a time; those that measure, measure ratios.
TEST_WORKERS ?= 2

BIN := $(VENV)/bin
PYTEST := $(BIN)/pytest -n $(TEST_WORKERS) --dist worksteal
STAMP := $(VENV)/.installed
DEMO_TARGETS := $(foreach target,intel mobile jetson server-gpu linux-arm,--target $(target))
COGGED := README.md docs/reference/cli.md docs/reference/profiles.md docs/reference/project-file.md \
	docs/reference/agent.md docs/explanation/updates.md docs/how-to/prove-on-a-rig.md
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Every test process, and each of the many that tests start, would compile everything anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-long check explore bench docs clean

demo: $(STAMP)
	$(BIN)/python docs/examples/digits/train.py
	$(BIN)/sdk build docs/examples/digits $(DEMO_TARGETS) --profile intel=host --jobs 2 --out build
	@echo
	$(BIN)/python docs/examples/digits/deliver.py build
	@echo
	$(BIN)/python docs/examples/digits/fleet.py build
	@echo
	@echo "report: build/digits/report.html"

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "make: Python 3.11 or newer is needed, this is " + sys.version.split()[0])'
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install -q $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -c constraints.txt -e '.[all]' --group dev
	touch $@

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/cog --check $(COGGED)
	$(PYTEST) -m 'not toolchain and not device and not slow and not long and not browser'

test: $(STAMP)
	$(PYTEST) -m 'not long'

test-long: $(STAMP)
	$(PYTEST) -m long

explore: $(STAMP)
	$(PYTEST) -m 'not toolchain and not device and not long and not browser' --hypothesis-profile=explore $$(grep -rl '^from hypothesis' tests --include='test_*.py')

bench: $(STAMP)
	$(BIN)/python -m benchmarks.run

docs: $(STAMP)
	$(BIN)/cog -r $(COGGED) docs/explanation/estimates.md

clean:
	rm -rf $(VENV) build *.egg-info
