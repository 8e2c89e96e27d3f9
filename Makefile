# What people type. The work is done by the scripts in .ci/.
PG ?= 15

.PHONY: help demo test bench bench-full bench-peers setup install fmt lint clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

demo: ## a workflow from start to end in a private PostgreSQL (PG=15)
	@PG=$(PG) .ci/demo

test: ## all tests: PG=15 (default), 16, 17, 18 or all
	@.ci/setup --workers --browser $(PG)
	@.ci/test $(PG)

bench: ## measurements beside hand-written SQL, the short set (PG=15, ARGS="…")
	@PG=$(PG) .ci/bench $(ARGS)

bench-full: ## all measurements at their full sizes, some hours; results in bench/results
	@PG=$(PG) .ci/bench --full --json bench/results/$$(date -u +%Y-%m-%d)-pg$(PG)-full.json $(ARGS)

bench-peers: ## beside graphile-worker, pg-boss and DBOS, which it fetches from npm and PyPI
	@PG=$(PG) .ci/bench --peers $(ARGS)

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
