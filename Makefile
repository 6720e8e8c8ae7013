# `make TORCH=torch==2.14.1 test` installs another torch; PYTHON chooses the interpreter.
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
STAMP := $(VENV)/installed

SELECTED_test := -m "not slow and not thorough"
SELECTED_test-all := -m "not thorough"

.PHONY: quickstart study test test-all test-thorough notebooks lint types docs

quickstart: $(STAMP)
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(VENV)/bin/python studies/quickstart.py

study: $(STAMP)
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(VENV)/bin/python studies/study.py

test test-all test-thorough: $(STAMP)
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -q --numprocesses auto --maxprocesses 4 --dist loadfile \
		--no-loadscope-reorder $(SELECTED_$@)

notebooks: $(STAMP)
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -q --numprocesses auto --maxprocesses 4 notebooks

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/clang-format --dry-run --Werror modeling/kernels/*

types: $(STAMP)
	$(VENV)/bin/pyright

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --quiet

$(STAMP): setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt "$(TORCH)"
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[sim,cluster,export,root,tune,space,docs,dev]"
	touch $(STAMP)
