# Every target makes its own virtual environment in .venv; nothing needs to be installed first but Python 3.11 or newer.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
INSTALL := $(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test bench docs lint

demo: $(VENV)/installed
	$(RUN) examples/demo.py

test: $(VENV)/installed-for-tests
	$(RUN) -m pytest

bench: $(VENV)/installed
	$(RUN) benchmarks/import_time.py
	$(RUN) benchmarks/generate_image.py

docs: $(VENV)/installed-for-docs
	$(RUN) -m mkdocs build --strict

lint: $(VENV)/installed-for-tests
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

$(VENV)/installed: setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable .
	touch $@

$(VENV)/installed-for-tests: setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable ".[clinical,demo,dicom,evaluate,test,train]"
	touch $(VENV)/installed $@

$(VENV)/installed-for-docs: setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable ".[docs]"
	touch $(VENV)/installed $@
