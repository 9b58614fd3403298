# make demo      sets up .venv, then runs the whole toolkit on the tiny LLVC checkpoint in the repository
# make test      sets up, then checks style, types and tests (what CI runs); keeps exported test bundles in .pytest_cache
# make test-all  adds the slow cross-products of targets, recipes and configs
# make bench     measures speed at real size beside PyTorch: 25 GB of disk, half an hour; KEEP=DIR keeps what it exports
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-all lint bench clean

demo: .venv/done
	$(BIN)/python -m benchmarks.demo demo

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

test-all: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: .venv/done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/done
	$(BIN)/python -m pytest benchmarks -s -q --benchmark-columns=min,median,iqr,rounds $(if $(KEEP),--keep $(KEEP))

# torch first, exactly this version: everything else that asks for torch then takes it
.venv/done: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

clean:
	rm -rf .venv demo dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
