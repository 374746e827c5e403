# Every test target can be run by itself. AFTLS_EXPECT=openssl,gnutls,… (the words are
# in .ci/run; beside them ebpf,ipv6,netns,terminal) turns a skip for the want of such a program into a failure.

GO      ?= go
FUZZFOR ?= 20s
LOG     := $(or $(TMPDIR),/tmp)/aftls-test.log

# What runs in real kernels: PACKAGE, or PACKAGE=REGEXP for some of its tests. The
# contract suite takes minutes for each: make test-kernel KERNEL_TESTS='.=TestContract/kernel'.
KERNEL_TESTS ?= ./internal/kernel ./internal/kernel/probe ./features './cmd/aftls=Doctor|TestKernel' \
	'.=TestKernel|TestPlaintextFile(Both|Peer|Is|Of)'

.PHONY: test unit race variants interop screenshot smoke vet cross lint fuzz bench newest-go test-kernel

# All that this machine can run; at the end, what it could not.
test: vet cross unit variants race smoke
	@if [ -s $(LOG) ]; then echo "not run on this machine:"; sort -u $(LOG); else echo "nothing was skipped"; fi

# Tests, contract suite, vectors, fuzz seeds and interop, with exact
# allocation counts. -v is only for the reasons of skips.
unit:
	@: > $(LOG)
	@$(GO) test -v -timeout 300s ./... > $(LOG).all 2>&1; code=$$?; \
	if [ $$code -ne 0 ]; then grep -vE '^ *(=== |--- PASS)' $(LOG).all | tail -n 300; fi; \
	grep -E '^(ok|FAIL|\?) ' $(LOG).all; grep -A2 -E '^ *--- SKIP' $(LOG).all | grep -E '^ +[a-z0-9_]+_test.go|^ +[a-z0-9_]+.go:' > $(LOG); \
	exit $$code

# The conformance suite is programs in C: unit runs it, and 'go test -race
# ./internal/afd/posix' is for those who change what it tests.
race:
	$(GO) test -race -timeout 600s $$($(GO) list ./... | grep -v /afd/posix$$)

# The record layer on every way to compute AES-GCM: what unit does not choose here.
# -count=1, as go test does not see that the environment is asked.
variants:
	$(GO) test -tags purego ./gcm/...
	AFTLS_GCM=generic $(GO) test -count=1 ./gcm ./record ./internal/soft
	AFTLS_GCM=avx2 $(GO) test -count=1 ./gcm ./record ./internal/soft

interop:
	$(GO) test -race -timeout 300s -run 'Openssl|OpenSSL|GnuTLS|Curl' -v .

# What a browser made of a page of 'aftls serve': unit runs the test, this keeps its
# picture, in the folder that its line ARTIFACTS names.
screenshot:
	@mkdir -p bin/artifacts
	$(GO) test -count=1 -artifacts -outputdir $(CURDIR)/bin/artifacts -run Chromium -v ./cmd/aftls

# A small run of every row of the bench: that it works, not how fast.
smoke:
	$(GO) run ./cmd/aftls bench --quick

vet:
	@test -z "$$(gofmt -l .)" || { echo "gofmt these:"; gofmt -l .; exit 1; }
	$(GO) vet ./...

cross:
	@for t in linux/arm64 darwin/arm64 freebsd/amd64 windows/amd64; do \
		echo "build and vet for $$t"; \
		GOOS=$${t%/*} GOARCH=$${t#*/} $(GO) build ./... && GOOS=$${t%/*} GOARCH=$${t#*/} $(GO) vet ./... || exit 1; \
	done

# Three real kernels under QEMU: docs/kernel.md. Needs qemu-system-x86 and apt.
test-kernel:
	scripts/kernels
	CGO_ENABLED=0 $(GO) run ./internal/vm/vmtest $(KERNEL_TESTS)

lint:
	$(GO) run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0 run

fuzz:
	@for p in $$($(GO) list ./...); do \
		for f in $$($(GO) test -list '^Fuzz' $$p | grep '^Fuzz'); do \
			echo "$$p $$f"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZFOR) $$p || exit 1; \
		done; \
	done

bench:
	$(GO) run ./cmd/aftls bench

# Two mechanisms of the handover rest on what crypto/tls does not promise
# (docs/architecture.md). So once a week or so: their tests with the newest Go that
# the module proxy has, release candidates included. NEWEST=1.27rc1 asks for another.
NEWEST = $$($(GO) list -m -versions -f '{{range .Versions}}{{println .}}{{end}}' golang.org/toolchain | \
	sed -n "s/^v0\.0\.1-go\(.*\)\.$$($(GO) env GOHOSTOS)-$$($(GO) env GOHOSTARCH)$$/\1/p" | \
	sed -e 's/rc/~rc/' -e 's/beta/~beta/' | sort -V | tail -n 1 | tr -d '~')

newest-go:
	@newest=$(NEWEST); [ -n "$$newest" ] || { echo "the module proxy lists no Go for this machine"; exit 1; }; \
	export GOTOOLCHAIN=go$$newest; \
	echo "testing with $$($(GO) version)"; \
	$(GO) test -count=1 -timeout 600s ./internal/handover . ./aftlshttp && echo "passed with go$$newest"
