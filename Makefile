# What people type. The work is done by the scripts in .ci/.
PG ?= 15
MODEL = PG_STEPWISE_MODEL_SEED="$(SEED)" PG_STEPWISE_MODEL_OPS="$(OPS)" PG_STEPWISE_MODEL_SECONDS="$(SECONDS)" \
  PG_STEPWISE_MODEL_SESSIONS="$(SESSIONS)" PG_STEPWISE_MODEL_ISOLATION="$(ISOLATION)" PG_STEPWISE_MODEL_BUG="$(BUG)"

.PHONY: help demo test model mutants bench setup install fmt lint clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

demo: ## a workflow from start to end in a private PostgreSQL (PG=15)
	@PG=$(PG) .ci/demo

test: ## all tests: PG=15 (default), 16, 17, 18 or all
	@.ci/setup --workers --browser $(PG)
	@.ci/test $(PG)

model: ## random commands beside a plain model of the rules (SEED=, OPS=, SECONDS=, SESSIONS=, ISOLATION=)
	@PG=$(PG) $(MODEL) .ci/model

mutants: ## the same, of builds with bugs on purpose: each must be found (BUG=)
	@PG=$(PG) $(MODEL) .ci/model mutants

bench: ## measurements beside hand-written SQL (PG=15, ARGS="…")
	@PG=$(PG) .ci/bench $(ARGS)

setup: ## install what building and testing needs (PG=15 … or all)
	@.ci/setup --workers $(PG)

install: ## build and install into your server: PG_CONFIG=/path/to/pg_config
	@.ci/setup none
	@.ci/install $(or $(PG_CONFIG),pg_config)

fmt: ## format the code
	@cargo fmt --all

lint: ## format and lints, as the tests check them
	@.ci/setup $(PG)
	@SUITES="fmt clippy" .ci/test $(PG)

clean: ## stop the servers of this checkout and remove what was built
	@.ci/clean
