# Everything runs in .venv, made once with the tested versions of constraints.txt: what the demo needs first, the
# developers' tools when a target needs them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := $(VENV)/.demo
INSTALLED := $(VENV)/.installed
PIP := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo pictures test torture lint types docs dist clean

help:
	@echo "make demo      a real pair to disparity, depth, points and a report"
	@echo "make pictures  the demo, and small copies of its pictures for the README"
	@echo "make test      the tests"
	@echo "make torture   hostile input under sanitizers, for MINUTES=10"
	@echo "make lint      ruff: rules and formatting"
	@echo "make types     mypy"
	@echo "make docs      the site, in out/site"
	@echo "make dist      sdist and wheel in dist, and the wheel tried in an empty environment"
	@echo "make clean     remove .venv and caches"

demo: $(DEMO)
	$(BIN)/stereopsis demo

pictures: demo
	$(BIN)/python docs/make_pictures.py out/demo

test: $(INSTALLED)
	$(BIN)/python -m pytest

MINUTES ?= 10
torture: $(INSTALLED)
	$(BIN)/python benchmarks/torture.py --minutes $(MINUTES)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

docs: $(INSTALLED)
	$(BIN)/mkdocs build --strict --quiet

dist: $(INSTALLED)
	$(BIN)/python .ci/dist.py

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Stamps beside the environment, written last: an interrupted install starts again.
$(DEMO): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	@echo "Installing the package and what the demo needs into $(VENV), about 1.4 GB with the CPU build of torch ..."
	$(PIP) -e '.[demo]'
	touch $@

$(INSTALLED): $(DEMO)
	@echo "Installing the developers' tools into $(VENV) ..."
	$(PIP) --progress-bar off -e '.[dev]'
	touch $@
