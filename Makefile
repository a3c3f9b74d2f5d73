# What a newcomer needs: `make demo` and `make test`, as root, on Debian 12 with Rust. See CONTRIBUTING.md.

SHELL := /bin/sh
export PATH := $(PATH):$(HOME)/.cargo/bin:/usr/local/sbin:/usr/sbin:/sbin
CARGO ?= cargo
# Any image this machine can reach, instead of the demo's own.
IMAGE ?=
# How often each start, or everything, is measured: each target has its own.
demo: RUNS ?= 1
bench-cold: RUNS ?= 5
bench-convert bench-layerfs bench-node: ROUNDS ?= 5
bench-nodes: ROUNDS ?= 3
# Images that are measured, by their names in tests/images (all of them).
IMAGES ?=
# What is measured of the file system, and which kinds of work (all of them).
PARTS ?=
ROWS ?=
# Networks that starts are measured over, speed and round trip (as bench-cold says), and where their figures are kept.
NETWORKS ?=
REPORT ?= target/bench
# Where the package takes the programs from, and where it is put.
PROGRAMS ?= target/release
PACKAGES ?= target/deb
# What has the containerd that is tested with: 1.6, 1.7, and 2.1 or later.
CONTAINERDS ?= bookworm trixie sid
# How much of what takes longer is done.
SEEDS ?= 50
LEAK_ROUNDS ?= 100

.PHONY: help build release deb check check-aarch64 fmt test test-matrix test-long test-real demo bench bench-cold bench-convert bench-layerfs bench-node bench-nodes deps clean

help: ## Say what there is
	@awk -F ': .*## ' '/^[a-z0-9-]+:.*## / { printf "%-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# With the tests: what they ask of shared crates would otherwise have those compiled a second time.
build: ## Build all programs and tests, for development
	$(CARGO) build --locked --workspace --bins --tests

release: ## Build the programs as they are measured and shipped
	$(CARGO) build --locked --release -p jaunt-snapshotter -p jaunt-proxy -p jaunt-benches

deb: ## Build the Debian package of both programs, unit and configuration (target/deb)
	$(CARGO) build --locked --release -p jaunt-snapshotter -p jaunt-proxy
	@snapshotter/dist/deb/build.sh "$(PROGRAMS)" "$(PACKAGES)"

check: ## Format and lints, warnings denied
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

check-aarch64: ## Compile everything for aarch64, tests and benches included, with Debian's cross compiler
	@CARGO="$(CARGO)" tests/check-aarch64.sh

fmt: ## Format all code
	$(CARGO) fmt --all

test: ## Check, then all tests; end to end only as root
	@tests/deps.sh test
	@$(MAKE) --no-print-directory check build
	@CARGO="$(CARGO)" tests/run.sh

test-matrix: ## The whole-system tests with each of CONTAINERDS: Debian releases, or directories of programs
	@tests/deps.sh demo
	@$(MAKE) --no-print-directory build
	@CARGO="$(CARGO)" tests/matrix.sh $(CONTAINERDS)

test-long: ## What takes longer: 50 seeds of kill -9, 100 rounds of images that come and go (SEEDS=n, LEAK_ROUNDS=n), aarch64
	@tests/deps.sh test
	@$(MAKE) --no-print-directory build
	JAUNT_KILL_SEEDS=$(SEEDS) $(CARGO) test --locked -p jaunt-tests --test killed -- --nocapture --test-threads 1 whoever_is_killed
	JAUNT_LEAK_ROUNDS=$(LEAK_ROUNDS) $(CARGO) test --locked -p jaunt-tests --test leaks -- --nocapture
	@$(MAKE) --no-print-directory check-aarch64

test-real: ## Compare the demo's image, mounted lazily, with what containerd unpacks (root; builds the image)
	@tests/deps.sh demo
	@$(MAKE) --no-print-directory build
	$(CARGO) test --locked -p jaunt-tests --test prefixes -- --ignored --nocapture

demo: ## Start a real image cold and warm, with overlayfs and with Jaunt (IMAGE=ref, RUNS=n)
	@test "$$(id -u)" = 0 || { echo "make demo: needs root, for containerd, mounts and a network of its own" >&2; exit 1; }
	@tests/deps.sh demo
	@$(MAKE) --no-print-directory release
	@exec target/release/demo --image "$(IMAGE)" --runs "$(RUNS)"

bench: ## Measure single functions (criterion)
	$(CARGO) bench --locked -p jaunt-benches

bench-cold: ## Measure starts, cold and warm (IMAGES=names, NETWORKS="1g 10g-0.5ms", RUNS=n, REPORT=directory)
	@test "$$(id -u)" = 0 || { echo "make bench-cold: needs root, for containerd, mounts and a network of its own" >&2; exit 1; }
	@tests/deps.sh demo
	@$(MAKE) --no-print-directory release
	@exec target/release/bench-cold --runs "$(RUNS)" --report "$(REPORT)" $(IMAGES:%=--image %) $(NETWORKS:%=--network %)

bench-convert: ## Measure the conversion of real images against the sum of its parts (IMAGES=names, ROUNDS=n)
	@test "$$(id -u)" = 0 || { echo "make bench-convert: needs root, to build images" >&2; exit 1; }
	@tests/deps.sh demo
	@$(MAKE) --no-print-directory release
	@exec target/release/bench-convert --rounds "$(ROUNDS)" $(IMAGES:%=--image %)

bench-layerfs: ## Measure the file system beside ext4 and over a slow network (ROUNDS=n, PARTS=a,b, ROWS=a,b)
	@test "$$(id -u)" = 0 || { echo "make bench-layerfs: needs root, for mounts and the page cache" >&2; exit 1; }
	@tests/deps.sh demo
	@$(MAKE) --no-print-directory release
	@exec target/release/bench-layerfs --rounds "$(ROUNDS)" $(PARTS:%=--parts %) $(ROWS:%=--rows %)

bench-node: ## Measure 200 calls and 100 containers at once on one node (ROUNDS=n)
	@test "$$(id -u)" = 0 || { echo "make bench-node: needs root, for containerd and mounts" >&2; exit 1; }
	@tests/deps.sh demo
	@$(MAKE) --no-print-directory release
	@exec target/release/bench-node --rounds "$(ROUNDS)" --report "$(REPORT)"

bench-nodes: ## Measure 1 to 8 nodes that start one image at once, with and without nginx between (ROUNDS=n)
	@test "$$(id -u)" = 0 || { echo "make bench-nodes: needs root, for containerd, mounts and networks of its own" >&2; exit 1; }
	@tests/deps.sh demo
	@$(MAKE) --no-print-directory release
	@exec target/release/bench-nodes --rounds "$(ROUNDS)" --report "$(REPORT)"

deps: ## Install what the tests and the demo drive, where it is missing (Debian, root)
	@tests/deps.sh demo

clean: ## Remove everything that was built
	$(CARGO) clean
