# Each target is one line of tox, pytest or a script; "make" alone explains them.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help bench clean conformance conformance-node cover demo demo-down docs eventlet faults gate genconfig gendocs lint test

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

bench: $(VENV)/.bench ## run all benchmarks, or one: make bench NAME=emulator
	$(BIN)/python -m bench $(NAME)

clean: demo-down ## end what runs here, and remove everything that was built
	@$(PYTHON) gate/smartos-cloud -d build/gate/cloud down
	@$(PYTHON) gate/smartos-cloud -d build/cloud down
	rm -rf $(VENV) .venv-cloud .tox build dist *.egg-info .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache

conformance: $(VENV)/.test ## compare with recorded answers: make conformance DATA=DIR
	$(BIN)/python -m tests.conformance $(DATA)

conformance-node: $(VENV)/.test ## a node as the records suppose: make conformance-node DATA=DIR NODE=DIR
	$(BIN)/python -m tests.conformance $(DATA) --up $(NODE)

cover: $(VENV)/.tox ## coverage of the product
	$(BIN)/tox -q -e cover

demo: ## a real cloud on emulated nodes, and servers in it
	$(PYTHON) -m demo up build/demo

demo-down: ## stop the demo's cloud and remove it
	@$(PYTHON) -m demo down build/demo

docs: $(VENV)/.tox ## build the documents into build/html
	$(BIN)/tox -q -e docs

eventlet: $(VENV)/.test ## unit and contract tests under eventlet
	$(BIN)/python -m tests.eventlet_halves

faults: $(VENV)/.test ## every fault at every node command: make faults ARGS="launch --jobs 4"
	$(BIN)/python -m tests.faults $(ARGS)

gate: ## user stories and Tempest on a real cloud: make gate ARGS="stories --keep"
	$(PYTHON) -m gate $(ARGS)

genconfig: $(VENV)/.test ## write etc/*.conf.sample anew
	$(BIN)/oslo-config-generator --config-file etc/oslo-config-generator/nova-smartos.conf
	$(BIN)/oslo-config-generator --config-file etc/oslo-config-generator/network.conf
	$(BIN)/oslo-config-generator --config-file etc/oslo-config-generator/smartos-meters.conf

gendocs: $(VENV)/.test ## write anew what is made from code: documents, etc/metadefs, entry points
	$(BIN)/python -m doc.dashboard
	$(BIN)/python -m doc.meters
	$(BIN)/python -m doc.properties
	$(BIN)/python -m doc.support_matrix

lint: $(VENV)/.tox ## format, lint, types, import rules, spelling
	$(BIN)/tox -q -e pep8

test: $(VENV)/.test ## all tests; ARGS="tests/unit -k zfs" for some
	$(BIN)/python -m pytest $(or $(ARGS),-n 2 --dist worksteal)

# a virtual environment of our own, made anew when the packages we ask for change
$(VENV)/.test: setup.cfg pyproject.toml
	PYTHON=$(PYTHON) .ci/venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[test,functional]'
	@touch $@

$(VENV)/.bench: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	@touch $@

$(VENV)/.tox: $(VENV)/.test
	$(BIN)/python -m pip install --quiet 'tox>=4.6'
	@touch $@
