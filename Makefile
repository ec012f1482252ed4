# Each target creates the virtual environment .venv; only Python 3.11 or newer is required.

PYTHON ?= python3
VENV := .venv
CONSTRAINTS := constraints.txt
RUN := $(VENV)/bin/python
INSTALL := $(RUN) -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS)

.PHONY: demo test test-lowest bench docs lint

demo: $(VENV)/installed
	$(RUN) examples/demo.py

test: $(VENV)/installed-for-tests
	$(RUN) -m pytest

# The tests with the lowest version of each requirement in setup.py.
test-lowest: lowest.txt
	$(MAKE) test VENV=.venv-lowest CONSTRAINTS=lowest.txt

lowest.txt: setup.py
	grep --only-matching --extended-regexp '"[a-z0-9-]+>=[0-9.]+"' $< | tr -d '"' | sed 's/>=/==/' > $@

bench: $(VENV)/installed
	$(RUN) benchmarks/import_time.py
	$(RUN) benchmarks/generate_image.py --models embedded

docs: $(VENV)/installed-for-docs
	$(RUN) -m mkdocs build --strict

lint: $(VENV)/installed-for-lint
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

$(VENV)/installed: setup.py $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable .
	touch $@

$(VENV)/installed-for-tests: setup.py $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable ".[clinical,demo,dicom,evaluate,rl,test,train]"
	touch $(VENV)/installed $@

$(VENV)/installed-for-docs: setup.py $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable ".[docs]"
	touch $(VENV)/installed $@

$(VENV)/installed-for-lint: setup.py $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable ".[lint]"
	touch $(VENV)/installed $@
