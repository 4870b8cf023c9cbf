# make demo: set up and see it work. make test, make check: what CI runs.
.PHONY: setup demo test check lock schema clean
BIN := .venv/bin

setup: .venv/setup.stamp

.venv/setup.stamp: requirements.lock pyproject.toml scripts/setup.sh
	@bash scripts/setup.sh

demo: setup
	$(BIN)/pocketvit demo

# One process for each core: a file's tests stay together, for the sake of its fixtures.
test: setup
	$(BIN)/python -m pytest -n auto --dist loadfile

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/export_schema.py --check
	$(BIN)/python scripts/check_lock.py

lock: setup
	$(BIN)/python scripts/check_lock.py --write

schema: setup
	$(BIN)/python scripts/export_schema.py

clean:
	rm -rf dist build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
