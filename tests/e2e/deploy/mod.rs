//! Deploys from the push to the switched link, and what they refuse.

mod again;
mod barrier;
mod build_lifetime;
mod disk;
mod dry_run;
mod judge_test;
mod newest;
mod push_to_switch;
mod refusals;
mod rollback;
mod ships;
mod terminal;
mod unit_isolation;
mod unremovable;
