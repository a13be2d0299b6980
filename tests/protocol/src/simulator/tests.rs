//! Checks of the simulator: a seed repeats its run, and many seeds meet every fault and find no failure.
//!
//! That each removed rule is found is shown by `tests/rules.rs`, in a process of its own.

use super::command::run_all;
use super::run;

/// A failure is replayed from its seed alone, so nothing else may decide what happens.
#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..40 {
        let (first, second) = (run(seed, true), run(seed, true));
        assert!(first.trace == second.trace, "seed {seed}: {}", difference(&first.trace, &second.trace));
        assert!(first.trace.lines().count() > 10, "seed {seed} does nothing");
        let untraced = run(seed, false);
        assert_eq!((first.hash, first.events), (second.hash, second.events), "seed {seed}");
        assert_eq!(
            (first.hash, first.events),
            (untraced.hash, untraced.events),
            "seed {seed} with and without a trace"
        );
    }
    assert_ne!(run(0, false).hash, run(1, false).hash);
}

fn difference(one: &str, other: &str) -> String {
    let lines = one.lines().zip(other.lines()).enumerate().find(|(_, (one, other))| one != other);
    lines.map_or("one is longer".to_owned(), |(at, (one, other))| format!("line {at}: {one}\n{other}"))
}

/// Reference: I1 to I9, I11. CI runs more: `make simulate SEEDS=20000`.
#[test]
fn a_fleet_is_never_split_and_always_settles() {
    let sum = run_all(0..20_000);
    assert_eq!(sum.failure, None, "make simulate SEEDS=@<seed> replays it");
    assert_eq!(sum.coverage.missing(), Vec::<String>::new(), "never met");
}
