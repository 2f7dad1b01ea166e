# Two commands: `make run` shows Gossamer at work, `make test` proves it. Both set up what they need.
PYTHON ?= python3
BIN := .venv/bin
# One thread per process: two are often far slower for small models.
export OMP_NUM_THREADS ?= 1

.PHONY: run test slow lint docs clean

run: .venv/.ready
	$(BIN)/gossamer run examples/first.toml

test: .venv/.ready lint
	$(BIN)/python -m pytest -m "not slow"

slow: .venv/.ready
	$(BIN)/python -m pytest

lint: .venv/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || (echo "Gossamer needs Python 3.11 or later: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,images,privacy,foundation]"
	@touch $@

clean:
	rm -rf .venv build .mypy_cache .ruff_cache .pytest_cache .hypothesis
