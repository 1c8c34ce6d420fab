# make demo: a synthetic corpus, trained on, indexed, queried and evaluated, in a few minutes.
# make faults: encoding and changes of an index, each killed KILLS times at random moments, in some minutes.
# make test: the tests.   make lint: ruff, mypy, import-linter.   make clean: remove what these made.

PYTHON ?= python3
VENV ?= .venv
DEMO ?= demo
MEDRET ?= $(VENV)/bin/medret
FAISS := $(if $(wildcard /proc/driver/nvidia/version),gpu,cpu)
PIP := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo demo-run test faults lint clean

demo: $(VENV)/.installed
	@$(MAKE) --no-print-directory demo-run

demo-run:
	rm -rf $(DEMO)
	$(MEDRET) phantoms $(DEMO)/corpus --patients 400 --seed 0
	$(MEDRET) corpus $(DEMO)/corpus
	$(MEDRET) train $(DEMO)/corpus --objective convirt --out $(DEMO)/run --seed 0
	$(MEDRET) build-index $(DEMO)/corpus --encoder $(DEMO)/run --split test --out $(DEMO)/index
	$(MEDRET) query --text "small left pleural effusion" --index $(DEMO)/index -k 5
	$(MEDRET) query --image "$$(ls $(DEMO)/corpus/files/p10/p1*/s*/*.jpg | head -n 1)" --index $(DEMO)/index -k 5
	$(MEDRET) query --text "small left pleural effusion" --find reports --index $(DEMO)/index -k 5
	$(MEDRET) evaluate report-recall --index $(DEMO)/index --json $(DEMO)/report-recall.json
	$(MEDRET) evaluate label-precision --index $(DEMO)/index --json $(DEMO)/label-precision.json --html $(DEMO)/results.html
	@echo "Done. The answers and figures, on patients the encoder has not seen, are one page: $(abspath $(DEMO))/results.html"

test: $(VENV)/.installed-dev
	$(VENV)/bin/python -m pytest

KILLS ?= 110

faults: $(VENV)/.installed-dev
	MEDRET_KILLS=$(KILLS) $(VENV)/bin/python -m pytest -q -s tests/test_faults_encode.py tests/test_faults_index.py
	@echo "make faults: at least $(KILLS) kills of encode and $(KILLS) of build, add, remove and compact; every outcome as it has to be"

lint: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

clean:
	rm -rf $(VENV) $(DEMO) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "medret needs Python 3.11 or newer; name one: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable ".[$(FAISS),dicom]"
	touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable ".[$(FAISS),dicom,dev]"
	touch $@ $(VENV)/.installed
