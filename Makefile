# Berth's commands. `make run` and `make test` are all that a new machine needs besides a Swift toolchain.
#
#   make run ARGS="--replicas 2"       arguments for `berth up`
#   make test FILTER=RoutingTests      only the tests whose name matches

SWIFT ?= swift
CONFIGURATION ?= release
ARGS ?=
FILTER ?=

.DEFAULT_GOAL := help
.PHONY: help run build test lint format clean

help: ## Says what there is
	@awk 'BEGIN { FS = ":.*## " } /^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## Installs what is missing, builds and starts everything (berth up)
	@scripts/bootstrap run
	@$(MAKE) --no-print-directory build
	@exec "$$($(SWIFT) build -c $(CONFIGURATION) --show-bin-path)/berth" up $(ARGS)

build: ## Builds the three programs
	@for product in berth-data berth-control berth; do \
	  echo "==> building $$product ($(CONFIGURATION))"; \
	  $(SWIFT) build -c $(CONFIGURATION) --product $$product || exit 1; \
	done

test: ## Installs what is missing, builds and runs every test
	@scripts/bootstrap test
	@echo "==> building the tests (debug)"
	@$(SWIFT) build --build-tests
	@echo "==> running the tests"
	@# One at a time: tests with real Chromes and time limits of their own must not starve each other on two cores.
	@$(SWIFT) test --skip-build --no-parallel $(if $(FILTER),--filter '$(FILTER)')

lint: ## Checks the source's form (.swift-format)
	@$(SWIFT) format lint --strict --parallel --recursive Package.swift Sources Tests
	@echo "==> the source's form is right"

format: ## Puts the source into that form
	@$(SWIFT) format --in-place --parallel --recursive Package.swift Sources Tests

clean: ## Removes what was built (not .berth/, which is data)
	@rm -rf .build .build-python
