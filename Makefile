# The commands that a person types; `make` alone lists them. Whatever a command needs is installed
# first, once: a Python environment in .venv, which also brings Node.js, and the CDK command line in
# node_modules. Afterwards everything but `deploy`, `diff`, `destroy` and `lock` works offline.
#
# Works with GNU make 3.81, which macOS has: no grouped targets, no .ONESHELL.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules

VENV := .venv
# Always by its path: make 3.81 looks up plain commands in the PATH that it was started with.
RUN := $(VENV)/bin/python

# npm and cdk start `node`: this makes it the environment's.
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# Modules from elsewhere must not shadow the pinned ones.
unexport PYTHONPATH PYTHONHOME

# pip, npm and cdk keep caches at home; build machines do not always have one.
ifneq ($(shell test -n "$$HOME" && test -d "$$HOME" && test -w "$$HOME" && echo yes),yes)
export HOME := $(CURDIR)/.build/home
$(shell mkdir -p .build/home)
endif

PYTHON_INSTALLED := $(VENV)/.installed
NODE_INSTALLED := node_modules/.installed
ASSET_BUILT := .build/.lambda-asset-built

CDK = node_modules/.bin/cdk $(1) $(if $(SETTINGS),-c "settings=$(SETTINGS)") \
	$(if $(EXAMPLE),-c "example=$(EXAMPLE)") $(ARGS)

.PHONY: help
help: ## List the commands
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-11s%s\n", $$1, $$2 }' Makefile
	@echo
	@echo 'ARGS="…" is passed on to the command (demo, up, test, coverage, faults, startup, lock, and the'
	@echo 'four of CDK: synth, diff, deploy, destroy). SETTINGS=other.yaml takes the place of mesh.yaml for'
	@echo 'these four. EXAMPLE=greeter or EXAMPLE=production is a stack of its own, for which no settings'
	@echo 'are read. STACKS=… names the stacks to deploy or destroy. PYTHON=… names the Python (3.11 or'
	@echo 'newer) to build .venv with.'

.PHONY: setup
setup: $(PYTHON_INSTALLED) $(NODE_INSTALLED) $(ASSET_BUILT) ## Install what is missing or out of date

.PHONY: demo
demo: setup ## Run the app on this machine, start tasks and show their tokens
	$(RUN) -m local demo $(ARGS)

.PHONY: up
up: setup ## Run the app on this machine until Ctrl-C, for any AWS client
	$(RUN) -m local up $(ARGS)

.PHONY: test
test: setup ## Run the tests; ARGS="-k settings -x" chooses some
	$(RUN) -m pytest --numprocesses=2 --dist=loadfile $(ARGS)

.PHONY: faults
faults: setup ## Try out faults for ten minutes; ARGS="--seconds 60 --replay '…'"
	$(RUN) -m tests.faults $(ARGS)

.PHONY: bench
bench: setup ## Measure how long tasks wait for their tokens
	$(RUN) -m bench.latency $(ARGS)

.PHONY: scale
scale: setup ## Measure how Reconciliation grows with the cluster
	$(RUN) -m bench.scale

.PHONY: startup
startup: setup ## Measure how a task starts, and draw docs/startup.svg
	$(RUN) -m bench.startup $(ARGS)

.PHONY: coverage
coverage: setup ## Run the tests and show the lines and branches that they miss
	$(RUN) -m pytest --cov --cov-report=term-missing:skip-covered $(ARGS)

.PHONY: lint
lint: $(PYTHON_INSTALLED) ## Check style and types
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy .

.PHONY: format
format: $(PYTHON_INSTALLED) ## Format the code and fix what can be fixed safely
	$(RUN) -m ruff check --fix-only .
	$(RUN) -m ruff format .

.PHONY: synth
synth: setup ## Check the settings and show the CloudFormation template
	$(call CDK,synth)

.PHONY: diff
diff: setup ## Show what a deployment would change
	$(call CDK,diff)

.PHONY: deploy
deploy: setup ## Deploy to the AWS account of your credentials
	$(call CDK,deploy $(or $(STACKS),--all))

.PHONY: destroy
destroy: setup ## Remove the deployment from the AWS account
	$(call CDK,destroy $(or $(STACKS),--all))

UV_COMPILE := $(RUN) -m uv pip compile --generate-hashes --universal --python-version 3.11 \
	--no-emit-index-url --no-emit-find-links --no-strip-extras --custom-compile-command "make lock"

.PHONY: lock
lock: $(PYTHON_INSTALLED) ## Pin anew what the *.in files and package.json ask for; ARGS=--upgrade
	$(UV_COMPILE) $(ARGS) requirements.in -o requirements.txt
	$(UV_COMPILE) $(ARGS) requirements-dev.in -o requirements-dev.txt
	$(UV_COMPILE) $(ARGS) handlers/requirements.in -o handlers/requirements.txt
	$(VENV)/bin/npm install --package-lock-only --ignore-scripts

.PHONY: clean
clean: ## Remove what was built and cached, not what was installed
	rm -rf .build cdk.out .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage coverage.xml
	find . \( -name .venv -o -name node_modules -o -name .git \) -prune \
		-o -name __pycache__ -type d -exec rm -rf {} +

# --------------------------------------------------------------------------------------------------
# Installation. A stamp is removed first and written last, so a failure leaves none. It holds what
# was installed: a file that only looks newer, after a change of branches, does not install again.
# --------------------------------------------------------------------------------------------------

# Takes the first Python that runs, is new enough and can make environments. A name on the PATH says
# little: pyenv puts names there that do not run, Debian leaves ensurepip out.
$(RUN):
	@if [ -n "$$PYTHON" ]; then set -- "$$PYTHON"; \
	else set -- python3.13 python3.12 python3.11 python3; fi; \
	found=; seen=; \
	for candidate do \
		version=$$("$$candidate" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null); \
		if [ -z "$$version" ]; then problem='does not run'; \
		elif ! "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
			problem="is $$version, too old"; \
		elif ! "$$candidate" -c 'import venv, ensurepip' 2>/dev/null; then \
			problem="is $$version, without venv and ensurepip (Debian: apt install python3-venv)"; \
		else found=$$candidate; break; fi; \
		seen="$$seen  $$candidate $$problem\n"; \
	done; \
	if [ -z "$$found" ]; then \
		printf 'This needs Python 3.11 or newer, with venv and ensurepip. Found:\n%b' "$$seen" >&2; \
		printf 'Install one, or say where it is: make setup PYTHON=/path/to/python3\n' >&2; \
		exit 1; \
	fi; \
	echo "Making $(VENV) with $$found $$version"; \
	"$$found" -m venv --clear $(VENV) || { rm -rf $(VENV); exit 1; }

$(PYTHON_INSTALLED): requirements.txt requirements-dev.txt | $(RUN)
	@if cat $^ | cmp -s - $@; then touch $@; else \
		rm -f $@; \
		echo 'Installing the pinned Python packages into $(VENV): a minute or two'; \
		$(RUN) -m pip install --disable-pip-version-check --quiet --require-hashes \
			-r requirements.txt -r requirements-dev.txt \
		&& cat $^ >$@; \
	fi

$(NODE_INSTALLED): package.json package-lock.json .npmrc | $(PYTHON_INSTALLED)
	@if cat $^ | cmp -s - $@; then touch $@; else \
		rm -f $@; \
		echo 'Installing the pinned CDK command line into node_modules'; \
		$(VENV)/bin/npm ci --no-update-notifier --loglevel=error \
		&& cat $^ >$@; \
	fi

# This is for what needs the network: after a change in handlers/, whoever uses the asset builds it.
$(ASSET_BUILT): handlers/requirements.txt infrastructure/lambda_asset.py | $(PYTHON_INSTALLED)
	@rm -f $@
	$(RUN) -m infrastructure.lambda_asset
	@mkdir -p $(@D)
	@touch $@
