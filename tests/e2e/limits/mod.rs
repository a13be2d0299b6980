//! Bounds: writes to Consul, reads, the size of the history.

mod consul_writes;
mod history_archive;
mod watch_payloads;
