# Berth's commands. `make run` and `make test` are all that a new machine needs besides a Swift toolchain.
#
#   make run ARGS="--replicas 2"       arguments for `berth up`
#   make test FILTER=RoutingTests      only the tests whose name matches
#   make fuzz FUZZ_SECONDS=600              longer than the usual minute
#   make bench SCENARIOS=S1,S2 REPEATS=5 SECONDS=2 RUNS=3 WRITE=1    BERTH=path measures another build

SWIFT ?= swift
CONFIGURATION ?= release
ARGS ?=
FILTER ?=
FUZZ_SECONDS ?= 60
SOAK ?= 100
SCENARIOS ?=
REPEATS ?=
SECONDS ?=
RUNS ?=
WRITE ?=
BERTH ?=

.DEFAULT_GOAL := help
.PHONY: help run build test bench curves allocations fuzz soak sanitize lint format clean

help: ## Says what there is
	@awk 'BEGIN { FS = ":.*## " } /^[a-z]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## Installs what is missing, builds and starts everything (berth up)
	@scripts/bootstrap run
	@$(MAKE) --no-print-directory build
	@exec "$$($(SWIFT) build -c $(CONFIGURATION) --show-bin-path)/berth" up $(ARGS)

build: ## Builds the three programs
	@for product in berth-data berth-control berth; do \
	  echo "==> building $$product ($(CONFIGURATION))"; \
	  $(SWIFT) build -c $(CONFIGURATION) --product $$product || exit 1; \
	done

ENGINE = $(if $(FILTER),$(findstring Docker,$(FILTER))$(findstring Swarm,$(FILTER)),yes)
test: ## Installs what is missing, builds and runs every test
	@scripts/bootstrap test
	@echo "==> building the tests (debug)"
	@$(SWIFT) build --build-tests
	@# A filter that names no test of Docker or Swarm needs no container engine.
	@$(if $(ENGINE),scripts/test-engine up)
	@echo "==> running the tests"
	@SWIFT="$(SWIFT)" ENGINE="$(ENGINE)" scripts/run-tests $(if $(FILTER),'$(FILTER)')

berth-data = $(or $(BERTH),$$($(SWIFT) build -c release --show-bin-path)/berth-data)

build-berth-data:
ifeq ($(BERTH),)
	@echo "==> building berth-data (release)"
	@$(SWIFT) build -c release --product berth-data
endif

bench: ## Installs what is missing and measures berth-data beside HAProxy and nginx
	@scripts/bootstrap bench
	@$(MAKE) --no-print-directory build-berth-data
	@BERTH="$(berth-data)" SCENARIOS='$(SCENARIOS)' REPEATS='$(REPEATS)' SECONDS_EACH='$(SECONDS)' RUNS='$(RUNS)' \
	  WRITE='$(WRITE)' Tests/Benchmarks/run

curves: ## Measures cost per request by instances, routes, connections and workers
	@scripts/bootstrap bench
	@$(MAKE) --no-print-directory build-berth-data
	@BERTH="$(berth-data)" Tests/Benchmarks/curves.py $(if $(WRITE),--write docs/performance.md)

allocations: ## Counts allocations and reference counts per request and chunk
	@scripts/bootstrap bench
	@$(MAKE) --no-print-directory build-berth-data
	@BERTH="$(berth-data)" Tests/Benchmarks/allocations.py $(if $(WRITE),--write docs/performance)

fuzz: ## Fuzzes the parsers and the exchange machine for a minute (libFuzzer)
	@scripts/fuzz $(FUZZ_SECONDS)

soak: ## Soaks berth-data: SOAK=1000 is ten times what `make test` does
	@$(SWIFT) build --build-tests
	@BERTH_SOAK=$(SOAK) $(SWIFT) test --skip-build --no-parallel --filter EndToEnd/Soak

sanitize: ## Runs the data plane's tests under AddressSanitizer and ThreadSanitizer
	@scripts/sanitize address
	@scripts/sanitize thread

lint: ## Checks the source's form (.swift-format)
	@$(SWIFT) format lint --strict --parallel --recursive Package.swift Sources Tests
	@echo "==> the source's form is right"

format: ## Puts the source into that form
	@$(SWIFT) format --in-place --parallel --recursive Package.swift Sources Tests

clean: ## Removes what was built (not .berth/, which is data)
	@rm -rf .build .build-python
