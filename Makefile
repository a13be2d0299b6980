# Commands for developers. CI runs .ci/run, which calls them.

CARGO ?= cargo

.PHONY: api-fuzz bench-deploy bench-fetch bench-page bench-publish bench-streams bench-unpack bench-ways build crash-sweep demo faults fuzz judge lint model power-sweep screenshots setup simulate test test-garage

api-fuzz: setup ## Sends a live agent everything that its OpenAPI document allows, and more: make api-fuzz EXAMPLES=200
	$(CARGO) build --locked --package cutover-rig
	scripts/api-fuzz

bench-deploy: setup ## Compares a deploy on three nodes with the Consul writes that it needs.
	consul=$$(scripts/get-consul) && CONSUL_BIN=$$consul $(CARGO) bench --locked --bench deploy

# Of the full sizes: 20,000 small files and 400 MB of large ones to publish, and an archive of 512 MiB to fetch.
PERCENT ?= 100

bench-fetch: ## Compares a node's download with curl in four ranges, and with s5cmd: make bench-fetch PERCENT=5
	scripts/setup bench
	nginx=$$(scripts/get-nginx) && NGINX_BIN=$$nginx S5CMD_BIN=$$(scripts/get-s5cmd || true) \
	  GARAGE_BIN=$$(scripts/get-garage --if-built || true) PERCENT=$(PERCENT) $(CARGO) bench --locked --bench fetch

bench-page: setup ## Measures frame times in Chromium while a thousand nodes change on the page of a deploy.
	consul=$$(scripts/get-consul) && CONSUL_BIN=$$consul $(CARGO) test --locked --test browser -- --ignored --nocapture a_thousand

bench-publish: ## Compares cutover publish with tar, pigz, zstd and an upload by curl: make bench-publish PERCENT=5
	scripts/setup bench
	consul=$$(scripts/get-consul) && CONSUL_BIN=$$consul GARAGE_BIN=$$(scripts/get-garage --if-built || true) \
	  PERCENT=$(PERCENT) $(CARGO) bench --locked --bench publish

bench-streams: setup ## Measures how much 500 open streams slow down a deploy.
	consul=$$(scripts/get-consul) && CONSUL_BIN=$$consul $(CARGO) bench --locked --bench streams

bench-unpack: ## Compares an unpack with GNU tar, on ext4 in memory; needs root: make bench-unpack PERCENT=5
	scripts/setup bench
	PERCENT=$(PERCENT) $(CARGO) bench --locked --bench unpack

bench-ways: setup ## Measures how long a new coordinator, an abort, and a revert take.
	consul=$$(scripts/get-consul) && CONSUL_BIN=$$consul $(CARGO) bench --locked --bench ways

build: ## A debug build; packages use `cargo build --release --locked`.
	$(CARGO) build --locked

crash-sweep: setup ## Kills an agent at every system call of a deploy, then lets each fail; half an hour, or: make crash-sweep CALLS='renameat(web-1/srv/current)'
	consul=$$(scripts/get-consul) && CONSUL_BIN=$$consul $(CARGO) test --locked --test crash -- --ignored --nocapture --test-threads 1

demo: setup ## Runs a small fleet on this machine: make demo ARGS='--nodes 5 --keep'
	consul=$$(scripts/get-consul) && CONSUL_BIN=$$consul $(CARGO) run --locked --package cutover-rig -- $(ARGS)

faults: ## Every fault in every phase of a deploy; needs root and an hour, or: make faults FAULTS=kill-coordinator PHASES=committed
	scripts/setup tests
	consul=$$(scripts/get-consul) && CONSUL_BIN=$$consul $(CARGO) test --locked --test faults -- --ignored --nocapture every_fault

# For each target, in seconds; CI runs 10.
SECONDS ?= 10

fuzz: setup ## Archives, records, settings and watch payloads made of anything: make fuzz SECONDS=3600
	scripts/fuzz $(SECONDS)

judge: setup ## A hundred deploys, judged from outside: no node switches before every node is prepared.
	consul=$$(scripts/get-consul) && CONSUL_BIN=$$consul $(CARGO) test --locked --test e2e -- --ignored --nocapture hundred

lint: ## The checks of CI, except dependencies and docs.
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

model: ## Explores every course of a small fleet, then removes each rule in turn; takes minutes: make model ARGS=--whole
	$(CARGO) run --quiet --locked --package cutover-protocol --profile proof -- model $(ARGS)
	$(CARGO) run --quiet --locked --package cutover-protocol --profile proof -- model rules

power-sweep: ## Cuts the power after each operation on the disk, in three kinds of deploys; needs root and half an hour: make power-sweep POWER_SEEDS=9
	scripts/setup tests
	consul=$$(scripts/get-consul) && CONSUL_BIN=$$consul $(CARGO) test --locked --test power -- --ignored --nocapture every_moment

screenshots: setup ## Takes pictures of every page, light and dark, wide and narrow, into target/screenshots.
	consul=$$(scripts/get-consul) && CONSUL_BIN=$$consul $(CARGO) test --locked --test browser -- --ignored --nocapture picture

setup: ## Installs the packages that a Debian machine needs for the build.
	scripts/setup

# 20000: the first 20000 seeds, as in CI. 5000..6000: a range. @1234: one seed, with its trace. `rules`: removes each rule in turn.
SEEDS ?= 20000

simulate: ## Simulates fleets in virtual time with random faults, one fleet per seed: make simulate SEEDS=@1234
	$(CARGO) run --quiet --locked --package cutover-protocol --profile proof -- simulate $(SEEDS)

test: ## All tests, with a real Consul, a real systemd in a container, and network partitions; needs root.
	scripts/setup tests
	CARGO=$(CARGO) scripts/test

test-garage: ## The tests of the store against moto, s3rver and Garage, which is built first, once: 10 minutes or more.
	scripts/setup tests
	garage=$$(scripts/get-garage) && GARAGE_BIN=$$garage $(CARGO) test --locked --test store servers::
