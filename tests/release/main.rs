//! The node's disk, on a real one: hostile archives, damage, cancellation, full disks, and every operation of a site.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod again;
mod agreement;
mod archive;
mod confine;
mod damage;
mod full_disk;
mod good;
mod hostile;
mod links;
mod odd;
mod operations;
mod rename;
mod site;
mod switch;
mod unremovable;
