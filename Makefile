# What people type. The work is done by the scripts in .ci/.
PG ?= 15
MODEL = PG_STEPWISE_MODEL_SEED="$(SEED)" PG_STEPWISE_MODEL_OPS="$(OPS)" PG_STEPWISE_MODEL_SECONDS="$(SECONDS)" \
  PG_STEPWISE_MODEL_SESSIONS="$(SESSIONS)" PG_STEPWISE_MODEL_ISOLATION="$(ISOLATION)" PG_STEPWISE_MODEL_BUG="$(BUG)"

.PHONY: help demo test model mutants crash pairs contention soak-calls bench bench-full bench-peers setup install fmt lint fuzz supply-chain clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

demo: ## a workflow from start to end in a private PostgreSQL (PG=15)
	@PG=$(PG) .ci/demo

test: ## all tests: PG=15 (default), 16, 17, 18 or all
	@.ci/setup --workers --browser --monitoring $(PG)
	@.ci/test $(PG)

model: ## random commands beside a plain model of the rules (SEED=, OPS=, SECONDS=, SESSIONS=, ISOLATION=)
	@PG=$(PG) $(MODEL) .ci/model

mutants: ## the same, of builds with bugs on purpose: each must be found (BUG=)
	@PG=$(PG) $(MODEL) .ci/model mutants

crash: ## kill a server under load, again and again: CYCLES=200
	@.ci/setup $(PG)
	@PG=$(PG) CYCLES=$(or $(CYCLES),200) .ci/cluster crash acknowledged

pairs: ## every pair of calls in every way that two sessions meet
	@.ci/setup $(PG)
	@PG=$(PG) PAIRS=all .ci/cluster pairs

contention: ## twenty claimers and sixteen reporters at once, for so long: SECONDS=300
	@.ci/setup $(PG)
	@PG=$(PG) PG_STEPWISE_CONTENTION_SECONDS=$(or $(SECONDS),300) .ci/cluster contention twenty_claimers sixteen_clients

soak-calls: ## a backend's memory over many calls: CALLS=10000000
	@.ci/setup $(PG)
	@PG=$(PG) PROFILE=release CALLS=$(or $(CALLS),10000000) .ci/cluster memory | \
	  awk '{ print; fflush() } /per million calls/ { grown = $$0 } /^test result: ok/ { ok = 1 } END { print grown; exit !ok }'

bench: ## measurements beside hand-written SQL, the short set (PG=15, ARGS="…")
	@PG=$(PG) .ci/bench $(ARGS)

bench-full: ## all measurements at their full sizes, some hours; results in bench/results
	@PG=$(PG) .ci/bench --full --json bench/results/$$(date -u +%Y-%m-%d)-pg$(PG)-full.json $(ARGS)

bench-peers: ## beside graphile-worker, pg-boss and DBOS, which it fetches from npm and PyPI
	@PG=$(PG) .ci/bench --peers $(ARGS)

setup: ## install what building and testing needs (PG=15 … or all)
	@.ci/setup --workers --monitoring $(PG)

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
	@.ci/fuzz $(or $(SECONDS),600) $(ARGS)

supply-chain: ## licences, sources and advisories of dependencies (advisories come from GitHub)
	@.ci/setup $(PG)
	@.ci/supply --advisories

clean: ## stop the servers of this checkout and remove what was built
	@.ci/clean
