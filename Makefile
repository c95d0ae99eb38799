# Thin on purpose: each target installs what it needs (Debian, Ubuntu) or names exactly what is missing, shows how far
# it is, and ends with a summary. `make help` lists them.

.DEFAULT_GOAL := help
CARGO ?= cargo
HOST = $(shell rustc -vV | sed -n 's/^host: //p')

.PHONY: help build test lint demo bench fuzz soak regress e2e images cluster

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## release builds of all programs in target/release
	@scripts/install-deps.sh build
	$(CARGO) build --release --workspace --bins --locked

test: ## every test: units, wire scripts, real clusters, drivers, failover, Kubernetes (SKIP_E2E=1 leaves the last out)
	@scripts/install-deps.sh test
	@scripts/test.sh

lint: ## format, clippy, documentation, licences and advisories
	@scripts/install-deps.sh build
	@scripts/lint.sh

demo: ## a cluster, two proxies, an operator, a switchover and a crash, live (KEEP=1 leaves it running)
	@scripts/install-deps.sh demo
	$(CARGO) build --release --locked -p pgstmtpool-proxy -p pgstmtpool-operator -p pgstmtpool-ctl -p pgstmtpool-tests --bins
	@$${CARGO_TARGET_DIR:-target}/release/demo

# WORKLOADS=a,b PEERS=a,b ROUNDS=n SECONDS=n TRANSPORT=unix PGBOUNCER=path OTHER_PROXY=path choose; unless it is complete, its report goes to
# target/bench instead. It runs what images/static.sh has built before it is stripped, so that profiles have names.
bench: ## beside direct connections and other poolers, into docs/BENCHMARKS.md (QUICK=1: some minutes)
	@scripts/install-deps.sh bench
	@images/static.sh dist/bench pgstmtpool-proxy
	$(CARGO) build --release --locked -p pgstmtpool-tests --bin bench
	@$(if $(SECONDS),SECONDS_EACH=$(SECONDS)) PGSTMTPOOL_BIN=$${CARGO_TARGET_DIR:-target}/$(HOST)/release \
	  $${CARGO_TARGET_DIR:-target}/release/bench

fuzz: ## the fuzz targets for FUZZ_SECONDS each (default 60); needs a C++ compiler
	@scripts/fuzz.sh

soak: ## the failover tests and the long random run for SOAK_MINUTES (default 60)
	@scripts/install-deps.sh demo
	@scripts/soak.sh

regress: ## PostgreSQL's own regression and isolation tests, straight and through session mode (from Debian's source package)
	@scripts/install-deps.sh regress
	$(CARGO) build --locked -p pgstmtpool-proxy
	$(CARGO) test --locked -p pgstmtpool-tests --features regress --test regress -- --nocapture --test-threads=1

e2e: ## end to end on Kubernetes: the cluster of KUBECONFIG, else a local one (root, cgroups); E2E_RECORD=1 records what it measures
	@scripts/install-deps.sh e2e
	@scripts/e2e.sh

cluster: ## a local three-node Kubernetes to try things on, in CLUSTER (default /tmp/pgstmtpool-cluster); tests/kubernetes/cluster.sh down ends it
	@scripts/install-deps.sh e2e
	@tests/kubernetes/cluster.sh up $${CLUSTER:-/tmp/pgstmtpool-cluster}

images: ## the programs as they are released into dist/programs, the container image of them, without an engine, into dist/pgstmtpool.tar
	@scripts/install-deps.sh release
	@images/static.sh dist/programs
	@images/archive.sh programs dist/programs ghcr.io/pgstmtpool/pgstmtpool:0.1.0 dist/pgstmtpool.tar
