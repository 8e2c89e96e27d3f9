# What people type. The work is done by the scripts in .ci/.
PG ?= 15

.PHONY: help demo test bench setup install fmt lint fuzz supply-chain clean

# How long make fuzz runs each target.
SECONDS ?= 600

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

demo: ## a workflow from start to end in a private PostgreSQL (PG=15)
	@PG=$(PG) .ci/demo

test: ## all tests: PG=15 (default), 16, 17, 18 or all
	@.ci/setup --workers --browser $(PG)
	@.ci/test $(PG)

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

fuzz: ## look for inputs that break the pure parts: SECONDS=600 for each target, ARGS="engine …"
	@.ci/setup $(PG)
	@.ci/fuzz $(SECONDS) $(ARGS)

supply-chain: ## licences, sources and advisories of dependencies (advisories come from GitHub)
	@.ci/setup $(PG)
	@.ci/supply --advisories

clean: ## stop the servers of this checkout and remove what was built
	@.ci/clean
