# Every target that needs it makes the virtual environment first: on a fresh machine `make train` or `make test` is all.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Where `make train` leaves its models, as rl_zoo3 does
LOGS ?= logs

.PHONY: help install train test test-slow test-sb3 test-lowest check bench docs figures clean

help:
	@echo "make train      train REDQ-SAC on InvertedPendulum-v5 through rl_zoo3, about 3 minutes on a laptop CPU"
	@echo "make test       run the tests (test-slow: the slow learning runs too; test-lowest: with the oldest dependencies)"
	@echo "make check      lint and types"
	@echo "make bench      measure updates per second against SB3 and SBX, replay buffers against those of other packages"
	@echo "make figures    draw the learning curves of the documentation, and their tables, from its CSV files"
	@echo "make docs       build the documentation, with an API reference, into site/: open site/index.html"

install: $(STAMP)

# constraints.txt names the tested versions
$(STAMP): pyproject.toml constraints.txt sb3_ext/zoo/startup/sb3_ext_startup.py sb3_ext/zoo/startup/sb3_ext_startup.pth
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev,plots]"
	touch $@

train: install
	$(BIN)/python -m rl_zoo3.train --algo redq_sac --env InvertedPendulum-v5 --eval-freq 1000 --seed 1 -f $(LOGS) -P

test: install
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

test-slow: install
	$(BIN)/python -m pytest -n 2 --dist loadfile

# SB3's own tests of SAC and DQN, with our classes in their place, and with each part switched on: about 40 minutes
test-sb3: install
	$(BIN)/python tests/sb3_suite.py

# The lowest versions that pyproject.toml admits, with the lowest Python
test-lowest:
	python3.10 -m venv $(VENV)-lowest
	$(VENV)-lowest/bin/python -m pip install --quiet --upgrade pip
	$(VENV)-lowest/bin/python -m pip install --quiet -c constraints-lowest.txt -e ".[dev,plots]"
	$(VENV)-lowest/bin/python -m pytest -n 2 --dist loadfile -m "not slow"

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: install
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[sbx,replay]"
	$(BIN)/python benchmarks/updates_per_second.py --output benchmarks/results/updates_per_second.csv
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/replay_buffers.py --output benchmarks/results/replay_buffers.csv

# The variable silences what mkdocs-material prints of its own future at every build
docs: install
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --site-dir site

# From the committed CSV files alone
figures: install
	$(BIN)/python benchmarks/learning_curves.py draw docs/figures/figures.yml
	$(BIN)/python -m sb3_ext.experiments redraw docs/results/cart_pole
	$(BIN)/python -m sb3_ext.experiments redraw docs/results/lunar_lander
	$(BIN)/python -m sb3_ext.experiments redraw docs/results/lunar_lander_trials
	$(BIN)/python -m sb3_ext.experiments redraw docs/results/inverted_pendulum_actor_gradients
	$(BIN)/python -m sb3_ext.experiments redraw docs/results/hopper_redq_mistakes
	$(BIN)/python -m sb3_ext.experiments redraw docs/results/inverted_pendulum_redq_mistakes
	$(BIN)/python -m sb3_ext.experiments redraw docs/results/redq_bfloat16
	$(BIN)/python benchmarks/results_page.py
	$(BIN)/python benchmarks/scaling.py --plot-only --output benchmarks/results/scaling.csv --figure docs/figures/scaling.png

clean:
	rm -rf $(VENV) $(VENV)-lowest dist build site .pytest_cache .mypy_cache .ruff_cache .hypothesis
