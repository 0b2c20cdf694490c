# Everything that is needed is set up by the targets themselves: Python 3.11 or later, make and git are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help stubs check-stubs demo demo-gate test test-deep proof proof-deep check format docs bench clean

help:
	@echo "make demo       a phased rollout over the 138 racks of a real machine, with real processes"
	@echo "make demo-gate  the same, stopped by a safety gate"
	@echo "make test       the whole suite"
	@echo "make test-deep  the suite with longer searches (more schedules, more kills); about an hour"
	@echo "make proof      every search for a broken rule, for most of an hour; its figures make the page Evidence"
	@echo "make proof-deep the same for hours"
	@echo "make check      format, lint, types, import contracts, docs"
	@echo "make stubs      the gRPC stubs, from flow.proto"
	@echo "make docs       the documentation, in docs/_build/html"
	@echo "make bench      the benchmarks; about half an hour"

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.user: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[all]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@ $(VENV)/.user

# The compiler of the stubs asks for an older protobuf than the rest may use, so it has an environment of its own.
PROTOC := $(VENV)/protoc
WIRE := opdispatch_adapters/flow/wire
$(PROTOC)/.ready: Makefile | $(BIN)/python
	$(PYTHON) -m venv $(PROTOC)
	$(PROTOC)/bin/python -m pip install --quiet grpcio-tools==1.80.1 mypy-protobuf==5.1.0
	@touch $@

define compile_stubs
PATH="$(abspath $(PROTOC)/bin):$$PATH" $(PROTOC)/bin/python -m grpc_tools.protoc -Isrc \
	--python_out=$(1) --grpc_python_out=$(1) --mypy_out=quiet:$(1) --mypy_grpc_out=quiet:$(1) $(WIRE)/flow.proto
endef

stubs: $(PROTOC)/.ready
	$(call compile_stubs,src)

# The stubs in the tree are those that flow.proto makes.
check-stubs: $(PROTOC)/.ready
	@rm -rf $(PROTOC)/fresh && mkdir -p $(PROTOC)/fresh
	$(call compile_stubs,$(PROTOC)/fresh)
	@for file in $(PROTOC)/fresh/$(WIRE)/*; do \
		cmp "$$file" "src/$(WIRE)/$$(basename "$$file")" || { echo "run make stubs"; exit 1; }; done

demo: $(VENV)/.user
	@mkdir -p demo
	@rm -rf demo/opdispatch.db*
	$(BIN)/opdispatch --store demo/opdispatch.db run examples/firmware.toml || test $$? -eq 3

demo-gate: $(VENV)/.user
	@mkdir -p demo
	@rm -rf demo/gate.db*
	$(BIN)/opdispatch --store demo/gate.db run examples/gate-trips.toml || test $$? -eq 4

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist worksteal --cov --cov-report=term-missing:skip-covered --cov-fail-under=100

test-deep: $(VENV)/.dev
	OPDISPATCH_DEEP=1 $(BIN)/python -m pytest -n 2 --dist worksteal --timeout 7200

# The page says what was found, also when a part found something: then the target fails after it was written.
proof: $(VENV)/.dev
	$(BIN)/python -m tests.proof; code=$$?; $(BIN)/python docs/evidence.py; exit $$code

proof-deep: $(VENV)/.dev
	$(BIN)/python -m tests.proof --deep; code=$$?; $(BIN)/python docs/evidence.py; exit $$code

check: $(VENV)/.dev check-stubs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/sphinx-build -n -W -q -b html docs docs/_build/html

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.dev
	$(BIN)/sphinx-build -n -W -b html docs docs/_build/html

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks.planning
	$(BIN)/python -m benchmarks.tick
	$(BIN)/python -m benchmarks.tick --store sqlite
	$(BIN)/python -m benchmarks.drain
	$(BIN)/python -m benchmarks.throughput
	$(BIN)/python -m benchmarks.latency
	$(BIN)/python -m benchmarks.submissions

clean:
	rm -rf $(VENV) demo docs/_build .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .import_linter_cache
