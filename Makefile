# What people type. CI runs .ci/run, which calls these.

CARGO ?= cargo

.PHONY: api-fuzz bench-deploy bench-page bench-streams bench-ways build demo faults fuzz judge lint model screenshots setup simulate test

api-fuzz: setup ## What the API's own description allows, and more, against a live agent: make api-fuzz EXAMPLES=200
	$(CARGO) build --locked --package cutover-rig
	scripts/api-fuzz

bench-deploy: setup ## A deploy on three nodes beside the bare Consul round that it needs.
	consul=$$(scripts/get-consul) && CONSUL_BIN=$$consul $(CARGO) bench --locked --bench deploy

bench-page: setup ## How long frames take in Chromium while a thousand nodes change on the page of a deploy.
	consul=$$(scripts/get-consul) && CONSUL_BIN=$$consul $(CARGO) test --locked --test browser -- --ignored --nocapture a_thousand

bench-streams: setup ## How much 500 open streams slow a deploy.
	consul=$$(scripts/get-consul) && CONSUL_BIN=$$consul $(CARGO) bench --locked --bench streams

bench-ways: setup ## How long a new coordinator, an abort, and a way back take.
	consul=$$(scripts/get-consul) && CONSUL_BIN=$$consul $(CARGO) bench --locked --bench ways

build: ## A debug build; packages use `cargo build --release --locked`.
	$(CARGO) build --locked

demo: setup ## A whole small fleet on this machine: make demo ARGS='--nodes 5 --keep'
	consul=$$(scripts/get-consul) && CONSUL_BIN=$$consul $(CARGO) run --locked --package cutover-rig -- $(ARGS)

faults: ## Every fault in every phase of a deploy; root, an hour, or: make faults FAULTS=kill-coordinator PHASES=committed
	scripts/setup tests
	consul=$$(scripts/get-consul) && CONSUL_BIN=$$consul $(CARGO) test --locked --test faults -- --ignored --nocapture every_fault

# For each target, in seconds; CI runs 10.
SECONDS ?= 10

fuzz: setup ## Archives, records, settings and watch payloads made of anything: make fuzz SECONDS=3600
	scripts/fuzz $(SECONDS)

judge: setup ## A hundred deploys, judged from outside: no node switches before every node is prepared.
	consul=$$(scripts/get-consul) && CONSUL_BIN=$$consul $(CARGO) test --locked --test e2e -- --ignored --nocapture hundred

lint: ## What CI refuses, but for dependencies and docs.
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

model: ## Every way in which a small fleet can go, and each rule removed in turn; minutes: make model ARGS=--whole
	$(CARGO) run --quiet --locked --package cutover-protocol --profile proof -- model $(ARGS)
	$(CARGO) run --quiet --locked --package cutover-protocol --profile proof -- model rules

screenshots: setup ## Every page, light and dark, wide and narrow, into target/screenshots.
	consul=$$(scripts/get-consul) && CONSUL_BIN=$$consul $(CARGO) test --locked --test browser -- --ignored --nocapture picture

setup: ## Installs what a Debian machine lacks to build this.
	scripts/setup

# 20000 are what CI runs; 5000..6000 are those; @1234 is one, with its whole trace; `rules` takes each rule out in turn.
SEEDS ?= 20000

simulate: ## Whole fleets in virtual time, a seed each, with everything going wrong: make simulate SEEDS=@1234
	$(CARGO) run --quiet --locked --package cutover-protocol --profile proof -- simulate $(SEEDS)

test: ## All tests, against a real Consul, a real systemd in a container, and networks that are cut: as root.
	scripts/setup tests
	CARGO=$(CARGO) scripts/test
