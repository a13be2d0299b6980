# What people type. CI runs .ci/run, which calls these.

CARGO ?= cargo

.PHONY: bench-deploy build demo judge lint setup test

bench-deploy: setup ## A deploy on three nodes beside the bare Consul round that it needs.
	consul=$$(scripts/get-consul) && CONSUL_BIN=$$consul $(CARGO) bench --locked --bench deploy

build: ## A debug build; packages use `cargo build --release --locked`.
	$(CARGO) build --locked

demo: setup ## A whole small fleet on this machine: make demo ARGS='--nodes 5 --keep'
	consul=$$(scripts/get-consul) && CONSUL_BIN=$$consul $(CARGO) run --locked -- demo $(ARGS)

judge: setup ## A hundred deploys, judged from outside: no node switches before every node is prepared.
	consul=$$(scripts/get-consul) && CONSUL_BIN=$$consul $(CARGO) test --locked --test e2e -- --ignored --nocapture hundred

lint: ## What CI refuses, but for dependencies and docs.
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets --locked -- -D warnings

setup: ## Installs what a Debian machine lacks to build this.
	scripts/setup

test: ## All tests, against a real Consul, and a real systemd in a container: that one needs root.
	scripts/setup tests
	consul=$$(scripts/get-consul) && CONSUL_BIN=$$consul $(CARGO) test --locked
