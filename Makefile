# SPDX-License-Identifier: Apache-2.0
# For development. ./demo and ./test can be used without knowing any of it.

PYTHON ?= $(shell for p in /usr/bin/python3 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
CC ?= gcc
PREFIX ?= /usr/local
DESTDIR ?=
BUILD := $(CURDIR)/build
PARTS := $(BUILD)/parts
VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' src/urunc/__init__.py)
# the interpreter itself, not a shim or a virtual environment's link: each verb starts it
INTERPRETER := $(shell $(PYTHON) -c 'import os, sys; print(os.path.realpath(sys.executable))')
INCLUDE := $(shell $(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("include"))')
MODULE := src/urunc/linux/_linux.abi3.so
STATIC := $(BUILD)/guest-init/guest-init $(BUILD)/guest-init/supervisor
DOOR := $(BUILD)/door/urunc
SHIM := $(BUILD)/door/containerd-shim-urunc-v2
VENV := .venv/bin
PYTEST := PATH="$(BUILD)/prefix/bin:$(PARTS)/bin:$$PATH" $(VENV)/python tests/lib/world.py -- $(VENV)/python -m pytest
PAGES := man/man8/urunc.8 man/man8/urunc-*.8 bash-completion/completions/urunc \
	zsh/site-functions/_urunc fish/vendor_completions.d/urunc.fish
CONTAINERD := github.com/containerd/containerd/v2
CONTAINERD_VERSION := v2.4.2
CONTAINERD_PARTS := containerd ctr containerd-shim-runc-v2
CRITEST := sigs.k8s.io/cri-tools/cmd/critest
CRITEST_VERSION := v1.37.0
CRIO := github.com/cri-o/cri-o
CRIO_VERSION := v1.36.3
CRIO_TAGS := containers_image_openpgp,containers_image_ostree_stub,exclude_graphdriver_btrfs
HELM_VERSION := v3.22.0
RUNC_VERSION := v1.4.4
KUBERNETES_VERSION := v1.37.2
BENCHES := lifecycle answer run engine restart scale
CLUSTER_NEEDS := root,tun,installed,runc,cni,nft,containerd2,kubernetes
CFLAGS ?= -O2 -Wall -Wextra -Werror
# Of how many installs before this one of the same version the code stays: shims that run have no other (launcher/start.py).
KEPT := 3

.PHONY: help build parts tools kubernetes check unit coverage root guest interop cluster machines machines-v2 trust tables counts bench bench-docs overhead engine network storage install uninstall clean

help: ## show this
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' Makefile | expand -t 12

$(MODULE): $(wildcard src/urunc/linux/*.[ch])
	$(CC) $(CFLAGS) -shared -fPIC -I$(INCLUDE) $(filter %.c,$^) -o $@ -ldl

$(STATIC): $(wildcard guest-init/*)
	$(MAKE) --no-print-directory -C guest-init OUT=$(BUILD)/guest-init

$(DOOR) $(SHIM) &: $(wildcard door/*)
	$(MAKE) --no-print-directory -C door OUT=$(BUILD)/door

build: $(MODULE) $(STATIC) $(DOOR) $(SHIM) ## compile what is in C, install into build/prefix
	@$(MAKE) --no-print-directory install PREFIX=$(BUILD)/prefix DESTDIR=

parts: ## build the guests and monitors that the tests use, into build/parts
	$(MAKE) --no-print-directory -C guests-src OUT=$(PARTS) PYTHON=$(PYTHON)

tools: ## build helm, a containerd 2, a runc for it, CRI-O and critest, for tests that use them, by Go, into build/tools
	mkdir -p $(BUILD)/tools/src $(BUILD)/tools/critest-src
	cd $(BUILD)/tools/src && rm -f go.mod go.sum && go mod init example.org/tools && \
	go get $(foreach name,$(CONTAINERD_PARTS),$(CONTAINERD)/cmd/$(name)@$(CONTAINERD_VERSION)) && \
	CGO_ENABLED=0 go build -tags no_btrfs,no_devmapper,no_zfs -o .. $(CONTAINERD_PARTS:%=$(CONTAINERD)/cmd/%)
	cd $(BUILD)/tools/critest-src && rm -f go.mod go.sum && go mod init example.org/critest && \
	go get -t $(CRITEST)@$(CRITEST_VERSION) && CGO_ENABLED=0 go test -c -o ../critest $(CRITEST)
	GOBIN=$(BUILD)/tools go install $$(pkg-config --exists libseccomp && echo -tags seccomp) github.com/opencontainers/runc@$(RUNC_VERSION)
	GOBIN=$(BUILD)/tools go install helm.sh/helm/v3/cmd/helm@$(HELM_VERSION)
	mkdir -p $(BUILD)/tools/crio.src
	cd $(BUILD)/tools/crio.src && rm -f go.mod go.sum && go mod init example.org/tools && \
	go get $(CRIO)/cmd/crio@$(CRIO_VERSION) && go build -trimpath -tags $(CRIO_TAGS) -o ../crio $(CRIO)/cmd/crio && \
	$(CC) -Os -static -o ../pinns "$$(go list -m -f '{{.Dir}}' $(CRIO))"/pinns/src/*.c

kubernetes: ## build the programs of a cluster, by Go, into build/tools/kubernetes (once; it takes long)
	tools/kubernetes.sh $(KUBERNETES_VERSION) $(BUILD)/tools/kubernetes

check: build ## linters (Python, shell, C), types, layering
	$(PYTEST) tests/style

unit: build ## tests that need no root
	$(PYTEST) tests/unit

coverage: build ## line coverage of src/urunc by the unit tests, least first
	$(PYTEST) -q tests/unit --cov --cov-report=term

root: build ## tests with real mounts, namespaces and control groups
	$(PYTEST) tests/root

guest: build parts ## tests that boot real guests
	$(PYTEST) tests/guest

interop: build parts ## tests with other tools: runc, Docker, Podman
	$(PYTEST) tests/interop

cluster: build parts kubernetes ## tests with a real Kubernetes of one node
	[ -e $(BUILD)/tools/containerd ] || $(MAKE) --no-print-directory tools
	URUNC_TEST_REQUIRE=$(CLUSTER_NEEDS) $(PYTEST) tests/cluster

machines: ## README's two commands in other distributions (MACHINES=debian-13), for the table in docs/engines.md
	tools/machines $(MACHINES)

machines-v2: ## tests/root in virtual machines with cgroup v2 alone, with the kernels of these distributions
	tools/machines --v2 $(or $(MACHINES),debian-12 debian-13 debian-sid)

trust: build parts ## the tests that docs/security.md and docs/known-faults.md name, and every fault of tests/root/test_faults
	URUNC_TEST_FAULTS=all $(PYTEST) tests/root/test_faults.py $$(grep -oh '\w*/test_\w*::test_\w*' \
		docs/security.md docs/known-faults.md | sort -u | sed 's|\(.*\)::|tests/\1.py::|')

tables: ## write the tables of docs/ that are made of what the tests see
	PYTHONPATH=src:tests $(VENV)/python tests/lib/tables.py

counts: build parts ## write the table of what each verb asks of the kernel, for this kind of machine
	PATH="$(PARTS)/bin:$$PATH" PYTHONPATH=src:tests $(VENV)/python tests/lib/world.py -- $(VENV)/python -m lib.counts write

bench: build parts ## all times against runc's and other peers': numbers and pictures in build/bench (5 minutes, quiet machine)
	@mkdir -p $(BUILD)/bench; rm -f $(BUILD)/bench/*; failed=; \
	for bench in $(BENCHES); do echo "== $$bench"; \
		PATH="$$PATH:$(PARTS)/bin" $(PYTHON) bench/$$bench --urunc $(BUILD)/prefix/bin/urunc --parts $(PARTS) \
			--results $(BUILD)/bench/results.json || failed="$$failed $$bench"; \
	done; \
	if $(VENV)/python -c 'import matplotlib' 2>/dev/null; then \
		$(VENV)/python bench/draw $(BUILD)/bench/results.json $(BUILD)/bench; \
	else echo "no pictures: they need matplotlib ($(VENV)/python -m pip install .[bench])"; fi; \
	[ -z "$$failed" ] || { echo "failed:$$failed"; exit 1; }

bench-docs: ## put what `make bench` has measured into docs/ and README
	mkdir -p docs/measured
	cp $(BUILD)/bench/results.json $(BUILD)/bench/*.svg docs/measured/
	$(MAKE) --no-print-directory tables

overhead: build parts ## measure what each monitor needs of the memory limit for itself
	PATH="$$PATH:$(PARTS)/bin" $(PYTHON) bench/overhead --urunc $(BUILD)/prefix/bin/urunc --parts $(PARTS) --search

engine: build parts ## times and memory of containerd's shims, urunc's against runc's
	PATH="$$PATH:$(PARTS)/bin" $(PYTHON) bench/engine --urunc $(BUILD)/prefix/bin/urunc --parts $(PARTS)

network: build parts ## latency and throughput to guests against a plain process
	PATH="$$PATH:$(PARTS)/bin" $(PYTHON) bench/network --urunc $(BUILD)/prefix/bin/urunc --parts $(PARTS)

storage: build parts ## what each way of a root filesystem to a guest costs
	PATH="$$PATH:$(PARTS)/bin" $(PYTHON) bench/storage --urunc $(BUILD)/prefix/bin/urunc --parts $(PARTS)

install: $(MODULE) $(STATIC) $(DOOR) $(SHIM) ## install below PREFIX (default /usr/local), beside other versions
	@set -e; library="$(DESTDIR)$(PREFIX)/lib/urunc/$(VERSION)"; \
	rm -rf "$$library.new"; mkdir -p "$$library.new" "$(DESTDIR)$(PREFIX)/bin"; \
	(cd src && find urunc -name '*.py' -o -name '*.so') | while read -r file; do \
		install -D -m 644 "src/$$file" "$$library.new/$$file"; done; \
	install -m 755 $(STATIC) "$$library.new"; \
	install -m 755 $(DOOR) "$$library.new/urunc-door"; \
	for entry in launch=urunc.__main__ containerd-shim-urunc-v2=urunc.shim.command; do \
		sed -e 's|@PYTHON@|$(INTERPRETER)|' -e 's|@LIBRARY@|$(PREFIX)/lib/urunc/$(VERSION)|' \
			-e "s|@ENTRY@|$${entry#*=}|" launcher/urunc.in >"$$library.new/$${entry%=*}"; \
		chmod 755 "$$library.new/$${entry%=*}"; \
	done; \
	$(INTERPRETER) -I -m compileall -q --invalidation-mode unchecked-hash \
		-s "$$library.new" -p "$(PREFIX)/lib/urunc/$(VERSION)" "$$library.new"; \
	$(INTERPRETER) -I launcher/bundle.py "$$library.new" "$(PREFIX)/lib/urunc/$(VERSION)"; \
	for code in $$(ls -t "$$library"/code.* 2>/dev/null | head -n $(KEPT)); do \
		[ -e "$$library.new/$${code##*/}" ] || cp -p "$$code" "$$library.new"; \
	done; \
	rm -rf "$$library.old"; [ ! -e "$$library" ] || mv "$$library" "$$library.old"; \
	mv "$$library.new" "$$library"; rm -rf "$$library.old"; \
	bin="$(DESTDIR)$(PREFIX)/bin"; \
	$(INTERPRETER) -I launcher/door.py $(DOOR) "$$bin/urunc.new" "$(PREFIX)/lib/urunc/$(VERSION)/launch"; \
	$(INTERPRETER) -I launcher/door.py $(SHIM) "$$bin/containerd-shim-urunc-v2.new" \
		"$(PREFIX)/lib/urunc/$(VERSION)/containerd-shim-urunc-v2"; \
	$(INTERPRETER) -IB launcher/manual.py src "$(DESTDIR)$(PREFIX)/share"; \
	for program in urunc containerd-shim-urunc-v2; do \
		chmod 755 "$$bin/$$program.new"; mv "$$bin/$$program.new" "$$bin/$$program"; \
	done
	@echo "installed $(DESTDIR)$(PREFIX)/bin/urunc $(VERSION)"

uninstall: ## remove what install put below PREFIX
	rm -rf "$(DESTDIR)$(PREFIX)/lib/urunc/$(VERSION)" "$(DESTDIR)$(PREFIX)/bin/urunc" \
		"$(DESTDIR)$(PREFIX)/bin/containerd-shim-urunc-v2" $(PAGES:%="$(DESTDIR)$(PREFIX)/share/"%)

clean: ## remove what was built
	rm -rf build $(MODULE)
