//! Bounds: disk space, writes to Consul, reads, the size of the history.

mod consul_writes;
mod disk_room;
mod fetch;
mod history_archive;
mod told;
mod watch_payloads;
