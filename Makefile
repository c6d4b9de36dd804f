# Everything happens in .venv. `make GPU=1 ...` lets pip choose a torch with CUDA.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
CONSTRAINTS := $(if $(GPU),,--constraint constraints-cpu.txt)

.PHONY: help demo install test lint accuracy eval bench questions scale chaos faults fuzz soak lock audit figures clean

help:
	@echo "make demo     set up, fetch one real clip, annotate it, show its timeline"
	@echo "make test     set up, then lint, types, layers and all tests"
	@echo "make lint     only lint, types and layers"
	@echo "make accuracy DATA=FOLDER   accuracy of the shipped models on the talking-face videos in FOLDER"
	@echo "make eval DATA=FOLDER [CACHE=FOLDER]   every protocol, on people the models never met, into docs/accuracy.md"
	@echo "make bench    speed, memory and cost by stage, beside other programs, into docs/performance.md (Linux, 35 minutes)"
	@echo "make questions   how fast saved questions are answered, over 10 million windows, into docs/questions.md (15 minutes)"
	@echo "make scale    what the fleet's servers carry, with simulated workers, into docs/scale.md (Linux, 10 minutes)"
	@echo "make chaos SPANS=1000 FAULTS=200 [SEED=N] [SOURCE=s3]   a fleet in which all fails that can, compared with a quiet run"
	@echo "make faults   takes each defence out, in a copy, where its test must fail; into docs/faults.md (half an hour)"
	@echo "make fuzz N=20000 [SEED=N]  mutated files through the reader, by the thousands: nothing may crash, leak or hang"
	@echo "make soak MINUTES=60 [SEED=N]   good, broken and hostile files through two workers, measured before and after"
	@echo "make lock     pin what is deployed, with hashes, into deploy/*.lock; UPGRADE=1: at the newest versions"
	@echo "make audit    look for known vulnerabilities in what is pinned"
	@echo "make figures  the pictures in docs/, anew"
	@echo "make clean    remove .venv and caches"

demo: .venv/installed
	@clip=$$($(BIN)/python tests/fetch_media.py obama_speech.mp4) && \
	$(BIN)/moodreel annotate "$$clip" && echo && \
	$(BIN)/moodreel timeline "$$clip" && echo && \
	echo "Next, on videos of yours:" && \
	echo "  $(BIN)/moodreel annotate PATH...      files, folders, patterns; into moodreel.db" && \
	echo "  $(BIN)/moodreel timeline FILE         one video's timeline" && \
	echo "  sqlite3 moodreel.db 'SELECT * FROM video_summary'" && \
	echo "  $(BIN)/moodreel --help"

install: .venv/installed

# Three at a time, each file by one process: most tests wait for servers and processes of their own. Files go in their
# order, so that the long ones of acceptance come first and the short ones of unit fill up what is left.
test: .venv/tests-installed lint
	$(BIN)/python -m pytest -n 3 --dist loadscope --no-loadscope-reorder

lint: .venv/tests-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

eval: .venv/tests-installed
	$(BIN)/python -m models.training.evaluate --data $(DATA) $(if $(CACHE),--cache $(CACHE))

accuracy: .venv/tests-installed
	$(BIN)/python -m models.training.accuracy --data $(DATA)

bench: .venv/tests-installed
	$(BIN)/python -m tests.benchmarks.bench

questions: .venv/tests-installed
	$(BIN)/python -m tests.benchmarks.questions

scale: .venv/tests-installed
	$(BIN)/python -m tests.benchmarks.scale

chaos: .venv/tests-installed
	$(BIN)/python -m tests.chaos --spans $(or $(SPANS),1000) --faults $(or $(FAULTS),200) \
		$(if $(SEED),--seed $(SEED)) $(if $(SOURCE),--source $(SOURCE))

faults: .venv/tests-installed
	$(BIN)/python -m tests.faults

# For every Python and system that we run on, with the hashes of all files; see docs/security.md.
lock: .venv/installed
	$(PIP) install --quiet uv
	$(call compiled,postgresql --extra report,scheduler)
	$(call compiled,postgresql --extra report --extra worker,worker)

compiled = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	$(if $(UPGRADE),--upgrade) --custom-compile-command 'make lock' --extra $(1) --output-file deploy/$(2).lock pyproject.toml

audit: .venv/installed
	$(PIP) install --quiet pip-audit
	$(BIN)/python deploy/audit.py deploy/scheduler.lock deploy/worker.lock

fuzz: .venv/tests-installed
	$(BIN)/python -m tests.fuzz --count $(or $(N),20000) $(if $(SEED),--seed $(SEED))

soak: .venv/tests-installed
	$(BIN)/python -m tests.soak --minutes $(or $(MINUTES),60) $(if $(SEED),--seed $(SEED))

figures: .venv/tests-installed
	$(BIN)/python docs/make_figures.py
	$(BIN)/python docs/make_page_figures.py

.venv/installed: pyproject.toml constraints-cpu.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "moodreel needs Python 3.11 or newer; name one: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(PIP) install --quiet $(CONSTRAINTS) --editable '.[worker,report]'
	@touch $@

.venv/tests-installed: .venv/installed
	$(PIP) install --quiet $(CONSTRAINTS) --editable '.[dev,training]'
	@touch $@

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .import_linter_cache *.egg-info
