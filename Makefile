# make demo: set up and see it work. make test, make check: what CI runs.
.PHONY: setup demo test check lock schema web clean
BIN := .venv/bin
# What Python compiles is kept, below .venv: each of the many processes of a test run would else compile torch anew where
# PYTHONDONTWRITEBYTECODE is set, as it is in many containers.
export PYTHONDONTWRITEBYTECODE :=
export PYTHONPYCACHEPREFIX := $(CURDIR)/.venv/pycache
WEB := $(wildcard web/*.json web/*.ts web/*.html web/src/* web/public/* web/public/*/*)

setup: .venv/setup.stamp

.venv/setup.stamp: requirements.lock pyproject.toml scripts/setup.sh
	@bash scripts/setup.sh

demo: setup
	$(BIN)/pocketvit demo

# One process for each core: a file's tests stay together, for the sake of its fixtures, in the order of tests/conftest.py.
test: setup $(if $(shell command -v npm),web)
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/export_schema.py --check
	$(BIN)/python scripts/check_lock.py
	$(BIN)/python scripts/web_limits.py --check

# The phone app, for serve --phone.
web: web/build/stamp

web/build/stamp: $(WEB) scripts/web.sh
	@bash scripts/web.sh

lock: setup
	$(BIN)/python scripts/check_lock.py --write

schema: setup
	$(BIN)/python scripts/export_schema.py

clean:
	rm -rf dist build web/dist web/build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
