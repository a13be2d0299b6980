//! The protocol as a whole: real participants, real coordinators, and a small Consul in memory.
//!
//! `traces/*.txt` are readable runs, one per rule; `UPDATE_TRACES=1` writes them anew, to be read in the diff.
//! [`fleet`] lets chance move the same world, and checks every invariant after every step.

#![expect(clippy::unwrap_used, reason = "the whole program is a test")]

mod coordination;
mod fleet;
mod kv;
mod trace;
mod world;
