SHELL := bash
# Everything runs in .venv, which `make setup` makes and keeps up to date. Only Python >= 3.11 and make are needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup-stamp

.DEFAULT_GOAL := help
.PHONY: help setup demo up test soak bench bench-quick test-system images push deploy rollback check lock clean

help: ## show this help
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  \033[1m%-12s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv with all dependencies, pinned by hash; quick when nothing changed

$(STAMP): requirements-dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("PromptQ needs Python 3.11 or newer, not " + sys.version.split()[0] + "; try: make PYTHON=python3.12 …" if sys.version_info < (3, 11) else 0)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing the pinned dependencies into $(VENV) (once; about a minute)…"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(STAMP)

demo: setup ## the whole stack on the simulator: submit prompts, poll, show answers, stop
	@$(BIN)/python -m cli.demo

up: setup ## start the stack in the foreground (ARGS="--port 9000 --workers 2")
	@$(BIN)/promptq up $(ARGS)

# checkov pins what others want newer, so it has an environment of its own.
CHECKOV := $(VENV)/checkov/.setup-stamp
$(CHECKOV): requirements-checkov.txt $(STAMP)
	@echo "Installing checkov into $(VENV)/checkov (once; about a minute)…"
	@test -x $(VENV)/checkov/bin/python || $(BIN)/python -m venv $(VENV)/checkov
	@$(VENV)/checkov/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-checkov.txt
	@touch $(CHECKOV)

# Tests wait half of their time; each process has its own stacks, so that one of them never meets another's jobs.
TEST_PROCESSES ?= 2
test: setup $(CHECKOV) ## the tests that need PyPI alone (ARGS="-k name" TEST_PROCESSES=2)
	@$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile $(ARGS)

soak: setup ## 20,500 jobs with random faults, twice, over 22 minutes (ARGS="--minutes 1 --jobs 2000")
	@$(BIN)/python -m tests.faults.soak $(ARGS)

bench: setup ## PromptQ beside what people write by hand, in 45 minutes at most (ARGS="submits --json FILE"); Linux
	@$(BIN)/python -m bench $(ARGS)

bench-quick: setup ## the same, shorter and coarser, in 3 minutes
	@$(BIN)/python -m bench --quick $(ARGS)

test-system: setup ## the tests that need Debian packages; installs them where it may
	@TEST_PROCESSES=$(TEST_PROCESSES) bash tests/system/run $(ARGS)

images: ## build promptq/api and promptq/worker (ENGINE=docker|podman|buildah TAG=… PYTHON_IMAGE=…)
	@ENGINE="$(ENGINE)" TAG="$(TAG)" PYTHON_IMAGE="$(PYTHON_IMAGE)" BUILD_FLAGS="$(BUILD_FLAGS)" k8s/images build

push: ## push them (REGISTRY=registry.example.com/team)
	@ENGINE="$(ENGINE)" TAG="$(TAG)" REGISTRY="$(REGISTRY)" k8s/images push

# Where there is no kubectl, the project's own does.
KUBECTL_SETUP := $(if $(shell command -v kubectl),,setup)
deploy: $(KUBECTL_SETUP) ## build, push, make missing Secrets, apply, wait (OVERLAY=production REGISTRY=… OPENAI_API_KEY=… DRY_RUN=1)
	@ENGINE="$(ENGINE)" TAG="$(TAG)" REGISTRY="$(REGISTRY)" OVERLAY="$(OVERLAY)" DRY_RUN="$(DRY_RUN)" k8s/deploy

rollback: $(KUBECTL_SETUP) ## put back what ran before the last make deploy
	@k8s/rollback

check: setup ## ruff, mypy --strict, import directions
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache | tail -n 3; exit $${PIPESTATUS[0]}

COMPILE := uv pip compile --universal --python-version 3.11 --generate-hashes --quiet --no-annotate --no-header \
	--no-emit-index-url --no-emit-find-links
lock: ## pin the newest allowed versions again (needs uv: pip install uv)
	@$(COMPILE) pyproject.toml --extra local --extra s3 --extra tracing --group dev --output-file requirements-dev.txt $(ARGS)
	@$(COMPILE) --group image-api --constraint requirements-dev.txt --output-file requirements-api.txt
	@$(COMPILE) --group image-worker --constraint requirements-dev.txt --output-file requirements-worker.txt
	@$(COMPILE) --group checkov --output-file requirements-checkov.txt $(ARGS)
	@for folder in bench/peers/*/ bench/plot/; do \
		test ! -f $$folder/requirements.in || $(COMPILE) $$folder/requirements.in --output-file $$folder/requirements.txt $(ARGS) || exit 1; \
	done

clean: ## remove .venv, caches and the local stack's data
	@rm -rf $(VENV) .promptq tests/system/*/node_modules *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
