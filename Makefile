# Two commands do all: `make demo` and `make test`. Each makes .venv and installs what is missing first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTEST := $(BIN)/python -m pytest
# One worker more than there are cores: some of the tests wait for processes of their own.
JOBS ?= $(shell echo $$(( $$(getconf _NPROCESSORS_ONLN) + 1 )))
PARALLEL := -n $(JOBS) --dist worksteal

# Compiled modules are kept, whatever the shell says: the tests start hundreds of interpreters.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo demo-nat demo-plain test lint ruff flake8-async types mypy basedpyright collected unit thorough strategies quick test-pythons mutants natlab natlab-hard interop cluster guesses matrix sim soak fuzz bench bench-relay scale bench-smoke js screenshots schema man docs coverage wheel clean

demo: $(STAMP)
	$(BIN)/python examples/demo.py

demo-nat: $(STAMP)
	$(BIN)/python examples/demo.py --nat

demo-plain: $(STAMP)
	$(BIN)/python examples/demo.py --plain

test: $(STAMP)
	$(MAKE) --no-print-directory -j 2 lint types collected
	$(MAKE) --no-print-directory unit

lint: ruff flake8-async

ruff: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Slow, and silent about what is neither asynchronous nor Trio's: two files of three. ASYNC100 is ruff's as well, and
# ASYNC300 asyncio's; without them it takes two thirds of the time.
flake8-async: $(STAMP)
	grep -rlwE 'async|trio' iceagent signal examples --include='*.py' \
		| xargs -P 2 -n 45 $(BIN)/python .ci/flake8-async --disable ASYNC100,ASYNC114,ASYNC300,ASYNC9

types: mypy basedpyright

mypy: $(STAMP)
	$(BIN)/mypy
	$(BIN)/mypy --config-file tests/mypy.ini

basedpyright: $(STAMP)
	$(BIN)/basedpyright --level error

# Compiles the tests once, where each of the workers of `unit` would do so for itself; and says early what cannot be read.
collected: $(STAMP)
	@mkdir -p build
	$(PYTEST) tests examples --collect-only -q >build/collected.log 2>&1 || { cat build/collected.log; exit 1; }

# Everything pytest knows, the examples' own tests among it; the two that have targets of their own aside.
unit: $(STAMP)
	$(PYTEST) tests examples --ignore=tests/natlab --ignore=tests/interop -q $(PARALLEL)

# The tests that try a part of their examples, seeds, mutants or pairs in `make unit`, with all of them.
thorough: $(STAMP)
	ICEAGENT_THOROUGH=1 $(PYTEST) tests -m thorough --ignore=tests/natlab --ignore=tests/interop -q $(PARALLEL)

# A relay that lies as it likes, by 10,000 strategies in rooms of two and as many in rooms of many: some ten minutes.
strategies: $(STAMP)
	ICEAGENT_THOROUGH=1 ICEAGENT_STRATEGIES=10000 $(PYTEST) tests/relay/test_malicious_rooms.py -q $(PARALLEL)

# Only what needs no other processes: the quick round while writing.
quick: $(STAMP)
	$(PYTEST) tests -m "not processes and not slow" --ignore=tests/natlab --ignore=tests/interop -q $(PARALLEL)

# Core, link and vnet under each Python that pyproject.toml names and this machine has.
test-pythons:
	.ci/pythons $(PARALLEL)

# Each defence of docs/security.md taken out once, in a copy of the tree: does its test fail? TRAP=47 tries one trap's.
mutants: $(STAMP)
	$(BIN)/python tests/mutants/mutants.py $(if $(TRAP),--trap $(TRAP))

# What the relay's client in JavaScript imports; its tests are among the others, and are skipped without it.
js:
	cd tests/relay/js && npm install --no-package-lock --no-audit --no-fund --silent

# Real kernels between real processes (needs root, ip and nft): prints the matrix of NATs, writes build/natlab.json.
natlab: $(STAMP)
	$(PYTEST) tests/natlab -q

# Each layout with a hard NAT ten times, and how many of the runs became direct.
natlab-hard: $(STAMP)
	ICEAGENT_HARD_RUNS=10 $(PYTEST) tests/natlab/test_hard_nat.py -q -s

# Other people's ICE stacks and servers; installs them first, and skips what cannot be had here.
interop: $(STAMP) build/interop/.installed
	$(PYTEST) tests/interop -q -n 3

build/interop/.installed: tests/interop/install $(STAMP)
	tests/interop/install $(BIN)/python build/interop

# How many codes a guesser with 500 sources spoils in a minute at a relay process; prints one line of JSON.
GUESSER ?=
guesses: $(STAMP)
	$(BIN)/python benchmarks/relay_guesses.py $(GUESSER)

# Three relays behind haproxy and one Redis: 200 rooms of two and 20 of eight talk while nodes are killed, and Redis once.
cluster: $(STAMP)
	ICEAGENT_CLUSTER=1 $(PYTEST) tests/relay/test_cluster.py -q -s

# Every pair of NAT behaviours in the virtual network, and what the oracle says; writes build/matrix.json.
matrix: $(STAMP)
	$(BIN)/python tests/vnet/matrix.py

# Worlds drawn from seeds, and what must hold in each (docs/vnet.md); a failing seed prints the line that repeats it.
SEEDS ?= 200
FIRST ?= 1
# The order of a set is a part of a world, too: without this a seed that failed need not fail again (HASHES=random).
HASHES ?= 0
sim: $(STAMP)
	PYTHONHASHSEED=$(HASHES) $(BIN)/python tests/sim/sim.py --seeds $(SEEDS) --first $(FIRST)

# A tunnel without a byte for so many minutes of real time, through the real command line; prints one JSON line.
MINUTES ?= 30
soak: $(STAMP)
	$(BIN)/python tests/soak/idle_tunnel.py --minutes $(MINUTES)

# Every parser of network bytes, each for so many seconds, led by coverage. atheris is installed first; where it cannot
# be had, one line says so.
SECONDS ?= 10
fuzz: $(STAMP)
	@$(BIN)/python -c 'import atheris' 2>/dev/null \
		|| $(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary atheris atheris >/dev/null 2>&1 \
		|| { echo "no atheris here: nothing is fuzzed"; exit 0; }; \
	mkdir -p build; \
	$(BIN)/python tests/fuzz/fuzz.py 2>/dev/null | tr ' ' '\n' | xargs -P 2 -I NAME sh -c '\
		$(BIN)/python tests/fuzz/fuzz.py NAME -max_total_time=$(SECONDS) >build/fuzz-NAME.log 2>&1 \
			&& grep -h "^Done" build/fuzz-NAME.log | sed "s/^Done/fuzzed NAME:/" \
			|| { cat build/fuzz-NAME.log; exit 255; }'

# The figures: each benchmark prints its own ratio against a yardstick of the same run.
bench: $(STAMP)
	for one in benchmarks/*.py; do echo "== $$one"; $(BIN)/python $$one || exit 1; done

# What one relay bears, and two with a Redis, in some three minutes: lines of JSON, each with its target.
bench-relay: $(STAMP)
	$(BIN)/python benchmarks/relay_load.py

# What a million members would take: the tables of docs/scale.md, from measured figures and a simulation.
scale: $(STAMP)
	$(BIN)/python benchmarks/scale.py

bench-smoke: $(STAMP)
	for one in benchmarks/*.py; do echo "== $$one"; $(BIN)/python $$one --smoke || exit 1; done

# The picture of the relay's status page in docs/operate.md, after a minute of traffic; needs chromium.
screenshots: $(STAMP)
	$(BIN)/python tests/support/status_world.py docs/status.png

# What `--json` prints, for programs that check what they read.
schema: $(STAMP)
	$(BIN)/python -m iceagent.cli.json_lines >docs/json-lines.schema.json

# The manual pages, in build/man/man1.
man: $(STAMP)
	$(BIN)/python -m iceagent man --into build/man/man1

# The pages of docs/, those of every public name among them, in build/docs. A warning is an error.
docs: $(VENV)/.installed-docs
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet --jobs 2 --builder html docs build/docs

$(VENV)/.installed-docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	touch $@

# What `make unit` runs of each file, in its own processes: a table, worst first at its end. Stops nobody.
coverage: $(STAMP)
	$(BIN)/python -c 'import pytest_cov' 2>/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check pytest-cov
	COVERAGE_FILE=build/coverage $(PYTEST) tests --ignore=tests/natlab --ignore=tests/interop -q $(PARALLEL) \
		--cov=iceagent --cov=icesignal --cov-report=term:skip-covered

wheel: $(STAMP)
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .

# pip is asked only when pyproject.toml is newer than the stamp, so a second run needs no network.
$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test,lint,aioquic,servers,qr]'
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-* build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
