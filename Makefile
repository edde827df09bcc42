# SPDX-License-Identifier: Apache-2.0
# make help lists the targets. All of them work as root and, where there is
# sudo, as an ordinary user.

# The compiler is pinned where it is used: in the go:generate lines.
CLANG_FORMAT ?= clang-format-19
GO ?= go
CONFIG ?= examples/quickstart.yaml
STATE ?= /var/lib/fairlead
RUN ?= /run/fairlead
FUZZTIME ?= 10s

# Under sudo's own PATH there is no Go.
export PATH := $(PATH):/usr/local/go/bin
export GO

# git refuses to speak to root about a tree of another user unless told so.
GIT := git -c safe.directory='*'
VERSION := $(shell $(GIT) describe --always --dirty --tags 2>/dev/null || echo unknown)
BUILD := CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags "-s -w -X main.release=$(VERSION)"
TOOL := $(GO) tool -modfile=tools/go.mod
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo 'sudo -H --preserve-env=CI,GOFLAGS,GOPROXY,GOCACHE,GOMODCACHE,FAIRLEAD_TEST_MODES,FAIRLEAD_TEST_FRAMES,FAIRLEAD_TEST_SEEDS,FAIRLEAD_TEST_RESTARTS,FAIRLEAD_SLEEP_ROUNDS env PATH="$$PATH"')
GENERATED := '*_bpfel.go' '*_bpfel.o'
C_FILES = $(wildcard bpf/*.c bpf/lib/*.h bench/bpf/*.c)
C_STYLE := --style=file:bpf/.clang-format
BENCH_PACKAGES := iproute2 ethtool iperf3 iptables nftables nginx libnginx-mod-stream haproxy
# Tests share the kernel: one package at a time, never from the cache.
TEST := -count=1 -p 1 -timeout 30m

.DEFAULT_GOAL := help

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## bin/fairlead, one static binary; needs Go and nothing else
	$(BUILD) -o bin/fairlead ./cmd/fairlead

.PHONY: build-arm64
build-arm64: ## bin/fairlead-arm64; the BPF objects are the same
	GOOS=linux GOARCH=arm64 $(BUILD) -o bin/fairlead-arm64 ./cmd/fairlead

.PHONY: run
run: ## start fairlead with examples/quickstart.yaml in the foreground; Ctrl-C stops it and all it started
	@scripts/setup.sh run
	@$(MAKE) --no-print-directory build
	@$(SUDO) PATH="$(CURDIR)/bin:$$PATH" scripts/run.sh $(CONFIG) $(STATE) $(RUN)

.PHONY: stop
stop: ## stop the fairlead of `make run` and take everything of it off this host
	@$(SUDO) scripts/stop.sh $(RUN)

.PHONY: test
test: ## install what the tests need, then run all of them: unit, packet, namespaces, wire
	@scripts/setup.sh test
	@$(MAKE) --no-print-directory build
	@$(SUDO) scripts/gotest.sh test $(TEST) ./...

.PHONY: test-unit
test-unit: ## tests that need neither root nor a kernel feature
	@$(GO) test ./cmd/... ./pkg/... ./test

.PHONY: test-packet
test-packet: ## BPF programs against single packets (root)
	@$(SUDO) scripts/gotest.sh test-packet $(TEST) ./test/packet/...

.PHONY: test-netns
test-netns: build ## real clients and servers in network namespaces (root)
	@$(SUDO) scripts/gotest.sh test-netns $(TEST) ./test/netns/...

.PHONY: test-wire
test-wire: ## routing by server name with real databases and their clients (root)
	@scripts/setup.sh test
	@$(SUDO) scripts/gotest.sh test-wire $(TEST) ./test/wire/...

.PHONY: test-vm
test-vm: ## the tests that touch the kernel, in QEMU on Debian's kernels; ARGS="-kernels 5.10 -suites bpf -arch arm64 -report F"
	@scripts/setup.sh vm
	@arch=$$(echo "$(ARGS)" | sed -n 's/.*-arch[ =]*\([a-z0-9]*\).*/\1/p'); scripts/vm-build.sh $${arch:-amd64}
	@bin/vm/bin-$$($(GO) env GOARCH)/vm $(ARGS)

.PHONY: test-fresh
test-fresh: ## the README's commands in a bare Debian 12 with nothing but Go (root); ARGS=run for the first alone
	@scripts/setup.sh fresh
	@$(SUDO) scripts/fresh.sh $(ARGS)

.PHONY: check-vagrant
check-vagrant: ## vagrant validate
	@scripts/setup.sh vagrant
	vagrant validate --ignore-provider

.PHONY: fuzz-short
fuzz-short: ## every fuzz target for FUZZTIME (10s)
	@scripts/fuzz.sh $(FUZZTIME)

.PHONY: soak
soak: build ## the tests that have a long form, at full length; about an hour (root)
	@$(SUDO) scripts/soak.sh

.PHONY: generate
generate: ## compile the C of bpf/ and bench/bpf/ with the pinned clang
	@scripts/setup.sh generate
	$(GO) generate ./pkg/bpf ./bench/harness

.PHONY: check-generated
check-generated: generate ## fail if the committed objects are not what the C compiles to
	@changed=$$($(GIT) status --porcelain -- $(GENERATED)); if [ -n "$$changed" ]; then \
		$(GIT) --no-pager diff --stat -- $(GENERATED); \
		echo "check-generated: these differ from what the C compiles to; run make generate and commit them:"; \
		echo "$$changed"; exit 1; fi
	@echo "check-generated: the committed objects are what the C compiles to"

.PHONY: fmt
fmt: ## format Go and C in place
	$(TOOL) gofumpt -w $$($(GIT) ls-files -co --exclude-standard '*.go' | grep -v _bpfe)
	$(CLANG_FORMAT) $(C_STYLE) -i $(C_FILES)

.PHONY: lint
lint: ## gofumpt, go vet, staticcheck, clang-format; changes nothing
	@out=$$($(TOOL) gofumpt -l $$($(GIT) ls-files -co --exclude-standard '*.go' | grep -v _bpfe)) || exit 1; \
		if [ -n "$$out" ]; then echo "lint: not formatted, run make fmt:"; echo "$$out"; exit 1; fi
	$(GO) vet ./...
	$(TOOL) staticcheck ./...
	@if ! command -v $(CLANG_FORMAT) >/dev/null; then echo "lint: no $(CLANG_FORMAT), C not checked"; \
		else $(CLANG_FORMAT) $(C_STYLE) --dry-run -Werror $(C_FILES); fi

.PHONY: bench-packet
bench-packet: ## ns per packet beside a bare XDP_TX and an LRU hash, control plane times (root); ARGS="-record bench/results" keeps it
	$(GO) build -buildvcs=false -o bin/bench-packet ./bench/packet
	@$(SUDO) bin/bench-packet -revision $(VERSION) $(ARGS)

.PHONY: bench-netns
bench-netns: build ## the whole path, beside plain routing, nftables, iptables, nginx, HAProxy (root); ARGS as above
	@scripts/setup.sh packages $(BENCH_PACKAGES)
	$(GO) build -buildvcs=false -o bin/bench-netns ./bench/netns
	@$(SUDO) bin/bench-netns -revision $(VERSION) $(ARGS)

.PHONY: bench-tcp
bench-tcp: build ## routing by server name, beside nginx stream and HAProxy (root); ARGS as above
	@scripts/setup.sh packages $(BENCH_PACKAGES)
	$(GO) build -buildvcs=false -o bin/bench-tcp ./bench/tcp
	@$(SUDO) bin/bench-tcp -revision $(VERSION) $(ARGS)

.PHONY: bench-http
bench-http: ## CPU per HTTP request and per TLS handshake, beside nginx and HAProxy (root); ARGS as above
	@scripts/setup.sh packages nginx haproxy
	$(GO) build -buildvcs=false -o bin/bench-http ./bench/http
	@$(SUDO) bin/bench-http -revision $(VERSION) $(ARGS)

.PHONY: bench-wake
bench-wake: build ## from listen() to the first byte, what sleeping services cost, a burst of wakes (root); ARGS as above
	@scripts/setup.sh packages iproute2 curl
	$(GO) build -buildvcs=false -o bin/bench-wake ./bench/wake
	@$(SUDO) bin/bench-wake -revision $(VERSION) $(ARGS)

.PHONY: clean
clean: ## remove what the targets above made in this tree
	rm -rf bin bench/out
