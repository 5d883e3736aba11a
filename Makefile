# The developer's menu; `make` prints it. CI runs these same targets and nothing else.
PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.ready
SOURCES := $(wildcard src/fastmq/*.pyx src/fastmq/*.pxd src/fastmq/*.c src/fastmq/*.h src/fastmq/*/*.pxi) setup.py
DATA ?= data
# Tests wait for clients and disks most of the time: more processes than cores
JOBS ?= 4
PYTEST := $(PY) -m pytest -n $(JOBS)
# What must work where nothing is compiled: the client, its commands, and the protocol in Python
PURE_TESTS := tests/client tests/integration/test_commands.py tests/property/test_codec_properties.py \
	$(wildcard tests/golden/test_golden_client.py tests/golden/test_golden_frames.py tests/golden/test_golden_filter.py) \
	$(filter-out %/test_client_handler.py,$(wildcard tests/unit/test_client_*.py)) \
	$(patsubst %,tests/unit/test_%.py,bodies codes command fields filter_expression filter_syntax headers message names tables)

.DEFAULT_GOAL := help
.PHONY: help build debug asan serve check test pure test-all crash wire interop fuzz hunt bench bench-client bench-compare bench-floor bench-profile bench-stalls bench-scaling instructions clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -q --disable-pip-version-check "setuptools>=77" "cython>=3.1,<4" "trio>=0.29" "lark>=1.2,<2" \
		"anyio>=4.5" lz4 zstandard opentelemetry-api \
		"pytest>=8" "pytest-xdist>=3.6" "hypothesis>=6.100" "pytest-benchmark>=5" "pyperf>=2.7" "ruff>=0.9" "mypy>=1.14"
	touch $@

build/.built: $(STAMP) $(SOURCES)
	$(PY) setup.py -q build_ext --inplace
	mkdir -p build && touch $@

build: build/.built ## the extensions, in place

debug: $(STAMP) ## the extensions with bounds checks, assertions and tracing
	FASTMQ_DEBUG=1 $(PY) setup.py -q build_ext --inplace --force

asan: $(STAMP) ## the extensions under address and undefined-behaviour sanitizers
	FASTMQ_SANITIZE=1 $(PY) setup.py -q build_ext --inplace --force

serve: build ## name server and broker on the default ports, data under ./data
	PYTHONPATH=src $(PY) -m fastmq serve --data $(DATA)

check: build ## ruff and mypy
	$(VENV)/bin/ruff check src tests bench setup.py
	$(VENV)/bin/ruff format --check src tests bench setup.py
	$(VENV)/bin/mypy

test: build ## the tests, official clients included where their toolchains are
	$(PYTEST) -m "not slow"
	$(MAKE) pure

pure: build ## the client as it is installed where there is no compiler, against a server that has its extensions
	rm -rf build/pure build/lib
	FASTMQ_PURE=1 $(PY) -m pip install -q --disable-pip-version-check --no-build-isolation --no-deps --target build/pure .
	! find build/pure -name '*.so' | grep .
	$(PYTEST) -o pythonpath="build/pure tests" -m "not slow and not apache and not java" $(PURE_TESTS)

test-all: build ## the tests with the long ones
	$(PYTEST)
	$(MAKE) pure

crash: build ## SIGKILL at random moments, 200 times
	$(PY) -m pytest tests/crash -m "slow or not slow"

wire: build ## only the official clients
	$(PYTEST) tests/wire

interop: build ## only what runs a real Apache RocketMQ beside fastmq
	$(PY) -m pytest tests/interop

fuzz: build ## only the fuzzers
	$(PY) -m pytest tests/fuzz

hunt: build ## forty times as many examples of every property (15 minutes)
	FASTMQ_EXAMPLES=40 $(PYTEST) tests/property

bench: build ## micro-benchmarks
	$(PY) -m pytest bench --benchmark-only

bench-compare: build ## fastmq against a real Apache RocketMQ (JDK and Maven; 20 minutes)
	PYTHONPATH=src $(PY) bench/compare_apache.py

bench-floor: build ## fastmq against the least that a broker can do (bench/floor.c)
	PYTHONPATH=src $(PY) bench/compare_floor.py

bench-profile: build ## what the time of each load of bench-compare goes into (perf, root)
	PYTHONPATH=src $(PY) bench/profile.py

bench-client: build ## our Python client against the others (JDK, Maven, pip; 15 minutes)
	PYTHONPATH=src $(PY) bench/client_compare.py --server apache --server fastmq

bench-stalls: build ## sends while other things go on
	PYTHONPATH=src $(PY) bench/stalls.py

bench-scaling: build ## cost of a message as work grows (30 GB of disk)
	PYTHONPATH=src $(PY) bench/scaling.py

instructions: build ## count the instructions of the hot functions, compare with the last counts (valgrind)
	PYTHONPATH=src $(PY) bench/instructions.py

clean: ## what was built
	rm -rf build src/fastmq/*.so src/*.egg-info .pytest_cache .mypy_cache .ruff_cache
