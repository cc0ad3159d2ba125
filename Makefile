# The two commands of the README are `make demo` and `make test`; each sets up first if needed.
PYTHON ?= python3
BIN := .venv/bin
# Torch, OpenMP and Celery each start a thread per core and then fight for them; two serve a laptop well.
export OMP_NUM_THREADS ?= 2

.PHONY: setup demo test chaos fuzz test-page screenshots lint results bench bench-serving lock clean

setup: .venv/.ready

.venv/.ready: requirements-torch.txt requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one with: make PYTHON=python3.12 setup")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements-torch.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes --requirement requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

demo: setup
	$(BIN)/python -m tools.demo

# File by file in two processes, each with servers of its own: a test often waits for what it has started.
# The order is that of the folders, which leaves short files for the end.
test: export OMP_NUM_THREADS = 1
test: setup
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

# The page in a real Chromium: $CHROMIUM, the system's, or one that is installed.
test-page: setup
	$(BIN)/python -m pytest -m page tests/web

# The same, and docs/screenshots is made anew.
screenshots: setup
	PAGE_SCREENSHOTS=docs/screenshots $(BIN)/python -m pytest -m page tests/web

# Kills everything that can die, in a hundred jobs, on both databases at once; its tables go to .chaos. Wants a C compiler.
chaos: setup
	$(MAKE) --jobs 2 chaos-sqlite chaos-postgresql

chaos-%: setup
	CHAOS_TABLES=.chaos $(BIN)/python -m pytest -m chaos -s tests/chaos -k $*

# Thousands of requests, archives and images, good and broken, where `make test` sends some: a quarter of an hour.
fuzz: setup
	$(BIN)/python -m pytest -m fuzz -s tests/api tests/store tests/core

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# DATA=FOLDER: the protocols on every dataset there; without it, on the demo's pictures. .results keeps what is done.
results: setup
	nice -n 10 $(BIN)/python -m tools.results $(DATA)
	nice -n 10 $(BIN)/python -m tools.results $(DATA) --long

bench: setup
	$(BIN)/python -m benchmarks

# Our server beside others, for ten minutes on a machine that does nothing else; fills the tables of docs/serving.md.
bench-serving: setup
	$(BIN)/python -m benchmarks serving
	$(BIN)/python -m benchmarks.serving_table

lock:
	tools/lock

clean:
	rm -rf .venv .demo
