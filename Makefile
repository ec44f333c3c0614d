# Croze's commands. `make help` lists them; the recipes that are longer than a line live in scripts/.

SHELL        := /bin/sh
.DEFAULT_GOAL := help

export PREFIX ?= /usr/local
export DESTDIR ?=
export CARGO ?= cargo
export CARGO_TERM_COLOR ?= auto

.PHONY: help setup setup-tests setup-vm build quickstart check test test-unit test-vm torture fuzz conformance bench install uninstall clean

help: ## lists these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

setup: ## installs what building needs (Debian packages, the musl target); checks for a Rust toolchain
	@scripts/setup.sh build

setup-tests: setup ## installs what the test suites need besides (podman, dockerd, a registry, debootstrap, tmux ...)
	@scripts/setup.sh tests

setup-vm: setup ## installs what the virtual machine of `make test-vm` takes (QEMU, debootstrap)
	@scripts/setup.sh vm

build: setup ## builds every program in release mode into bin/
	@scripts/build.sh

quickstart: build ## shows one container from start to end with a daemon of its own, then removes every trace
	@scripts/quickstart.sh

check: setup ## format, lints, documentation, licences, direction of imports (no test is run)
	@scripts/check.sh

test: setup-tests build ## every unit and integration test (needs root)
	@scripts/test.sh all

test-unit: setup ## the unit tests only: no root, no programs of others
	@scripts/test.sh unit

test-vm: setup-vm build ## the runtime's suite in a virtual machine with cgroup v2, systemd and AppArmor (half an hour; docs/testing.md)
	@integration-tests/vm/suite.sh $(VM_ARGS)

torture: setup-tests build ## kill -9 at random and at every step, full disks, damaged files, random seccomp profiles (docs/torture.md; a quarter of an hour)
	@scripts/torture.sh

fuzz: setup ## random references, manifests, challenges and archives, a minute for each target (docs/testing.md; CROZE_FUZZ_SECONDS)
	@scripts/fuzz.sh

conformance: setup-tests build ## our table, crun's tests and runtime-tools against croze-rt, runc and crun (docs/conformance.md; twenty minutes)
	@scripts/conformance.sh

bench: setup-tests build ## compares croze-rt with crun and runc, croze and its network with podman's and dockerd's (docs/benchmarks.md)
	@scripts/bench.sh

install: build ## installs programs, manual pages, completions and a systemd unit under PREFIX (/usr/local), below DESTDIR if set
	@scripts/install.sh install

uninstall: ## removes what install installed; images and containers under /var/lib/croze stay
	@scripts/install.sh uninstall

clean: ## removes what was built
	@$(CARGO) clean --quiet && rm -rf bin
	@echo "clean: bin/ and the target directory are gone"
