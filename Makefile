# A machine with Python 3.11 or later, make and a C compiler is enough: every target sets up what it needs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
BUILT_FROM := pyproject.toml setup.py constraints.txt \
	$(filter-out %/_engine.c %/_kernel.c %/_packing.c,$(wildcard src/bitq/*/*.c)) $(wildcard src/bitq/*/*.h tools/extensions/*.py)

.PHONY: env test test-torch demo lint clean

env: $(INSTALLED)

$(INSTALLED): $(BUILT_FROM)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "bitq needs Python 3.11 or later: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

# Two files of tests at a time: a few of them watch processes and the clock, and more would be in each other's way.
test: env
	$(BIN)/pytest -n 2 --dist loadfile

# What bitq needs of PyTorch beyond its documentation, in any version: make test-torch TORCH=2.10.0
test-torch:
	$(PYTHON) tools/test_torch.py $(or $(TORCH),$(error say which version: make test-torch TORCH=2.10.0))

demo: env
	$(BIN)/bitq search demo --device stm32f103c8 --max-accuracy-loss 0.005 --run runs/demo

lint: env
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) .venv-torch build dist src/*.egg-info runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -prune -exec rm -rf {} +
	rm -f src/bitq/*/*.so src/bitq/movement/_engine.c src/bitq/numerics/_kernel.c src/bitq/numerics/_packing.c
