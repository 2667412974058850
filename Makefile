# Needs only Python 3.11 or newer and make: the environment is created in .venv.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
SOURCES := $(shell find src -type f -not -name '*.pyc' -not -path '*.egg-info*') pyproject.toml README.md LICENSE

.PHONY: demo test test-long test-lm-eval format docs clean

demo: .venv/.demo  ## the tour: a report in torchstu-demo/
	$(BIN)/torchstu demo --output torchstu-demo

test: .venv/.test  ## linters, types and the whole suite against the installed package
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check --quiet src tests benchmarks
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 -m "not long"

test-long: .venv/.test  ## checks that take minutes
	$(BIN)/python -m pytest -n 2 -m long

test-lm-eval: .venv/.test  ## the evaluation harness on a language model; installs it
	$(PIP) install ".[lm-eval]"
	$(BIN)/python -m pytest -m long tests/integrations/test_lm_eval.py

format: .venv/.test
	$(BIN)/ruff check --fix src tests benchmarks
	$(BIN)/ruff format src tests benchmarks

docs: .venv/.docs  ## the site, in site/
	$(BIN)/mkdocs build --strict

clean:
	rm -rf .venv build site torchstu-demo .mypy_cache .ruff_cache .pytest_cache

# torch comes first and pinned: an unpinned one can pull several gigabytes of CUDA packages.
.venv/.torch: constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) install -c constraints.txt torch numpy
	@touch $@

.venv/.demo: .venv/.torch $(SOURCES)
	$(PIP) install -c constraints.txt --force-reinstall --no-deps .
	$(PIP) install -c constraints.txt ".[all]"
	@touch $@

.venv/.test: .venv/.torch $(SOURCES)
	$(PIP) install -c constraints.txt --force-reinstall --no-deps .
	$(PIP) install -c constraints.txt ".[dev]"
	@touch $@

.venv/.docs: .venv/.torch $(SOURCES)
	$(PIP) install -c constraints.txt ".[docs]"
	@touch $@
