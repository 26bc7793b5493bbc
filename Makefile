# One command per act. `make quickstart` and `make test` are all a newcomer needs.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: quickstart tables-quick bench test pytest test-all test-alerts install install-dev check fix clean

quickstart: install
	$(BIN)/capfilt quickstart

# A small form of every table, seed 0: minutes, and figures that decide nothing.
tables-quick: install
	$(BIN)/capfilt ablate configs/tables-quick.yaml --table all --seeds 0

# A small form of every benchmark that needs no GPU, one after another; run it on an idle machine.
BENCHMARKS := "caption --batch-size 8 --repeats 3" "match --batch-size 8 --repeats 3" "chain --images 800" \
	"pipeline --images 60 --repeats 1" "fetch --urls 1000 --repeats 3" "train --shards 8 --steps 3" \
	"index --rows 500000 --csv-rows 200000 --repeats 2" "driver --shards 5000"
bench: install-dev
	@for benchmark in $(BENCHMARKS); do echo "== $$benchmark"; \
	BENCHMARK_RESULTS=build/benchmarks $(BIN)/python -m benchmarks.$$benchmark || exit 1; done

# Two processes; all that starts Ray in one of them (tests/conftest.py). Meanwhile lint and types.
test: install-dev
	@$(MAKE) --no-print-directory --jobs 2 check pytest

pytest: install-dev
	$(BIN)/python -m pytest -n 2

# Also what takes minutes each: a whole run with poisoned rows, one on a busy S3 server whose bucket vanishes.
test-all: install-dev check
	$(BIN)/python -m pytest -n 2 -m 'long or not long'

# When the alerts fire. promtool comes with Prometheus: `apt-get install prometheus`.
test-alerts:
	promtool check rules cluster/launch/monitoring/alerts.yaml
	promtool test rules tests/cluster/launch/alerts.test.yaml

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "capfilt needs Python 3.11 or 3.12 on the PATH (or PYTHON=/path/to/python)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install -qq --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install -qq --editable '.[dev]'
	@touch $@ $(VENV)/.installed

check: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@mkdir -p $(VENV)/types && ln -sfn ../.. $(VENV)/types/capfilt
	$(BIN)/mypy

fix: install-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf runs data build *.egg-info .pytest_cache .mypy_cache .ruff_cache
