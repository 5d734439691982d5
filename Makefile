# `make demo` and `make test` set everything up by themselves (Debian or Ubuntu, Python 3.11 or 3.12).
# ARGS is passed on: make demo ARGS=--smoke, make test ARGS="-k geometry".

VENV := .venv
PYTHON := $(VENV)/bin/python
STAMP := $(VENV)/.installed

.PHONY: help demo test lint clean

help:
	@echo "make demo   simulate drives, train, evaluate, draw: the whole job, into runs/demo"
	@echo "make test   run the tests"
	@echo "make lint   ruff and mypy"
	@echo "make clean  remove .venv and caches (runs/ and data/ stay)"

demo: $(STAMP)
	$(PYTHON) tools/demo.py $(ARGS)

test: $(STAMP)
	$(PYTHON) -m pytest $(ARGS)

lint: $(STAMP)
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

# Written last: an interrupted installation starts again.
$(STAMP): pyproject.toml tools/setup.sh
	bash tools/setup.sh $(VENV)
	touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
