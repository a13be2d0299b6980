//! Runs the checker, and prints its results.

use std::fmt;
use std::time::{Duration, Instant};

use stateright::{Checker as _, HasDiscoveries, Model as _};

use super::reached::{self, Reached};
use super::scope::{self, Scope};
use super::{ALWAYS, Exploration};
use crate::protocol::rule::{self, Rule};

/// The result of one configuration.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) name: &'static str,
    /// Different states.
    pub(super) unique: usize,
    /// Whether every state was reached.
    is_whole: bool,
    /// All states, also those that were reached before.
    pub(super) generated: usize,
    depth: usize,
    took: Duration,
    /// The situations of [`reached::ALL`] that it reached.
    pub(super) reached: Vec<&'static str>,
    /// The broken invariant, with the actions that led to it.
    pub(super) violation: Option<String>,
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, unique, generated, depth, took, violation, .. } = self;
        let result = match (violation, self.is_whole) {
            (Some(_), _) => "BROKEN",
            (None, true) => "holds",
            (None, false) => "holds so far (--whole: to the end)",
        };
        write!(f, "{name:<58} {unique:>9} states {generated:>10} steps  depth {depth:>3} {took:>7.1?}  {result}")?;
        violation.as_ref().map_or(Ok(()), |how| write!(f, "\n{how}"))
    }
}

/// Checks one configuration on every core. `until_broken`: ends with the first violation.
fn check(scope: Scope, until_broken: bool) -> Checked {
    let begun = Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, Into::into);
    let mut builder = Exploration { scope, reached: Reached::default() }.checker().threads(threads);
    if until_broken {
        builder = builder.finish_when(HasDiscoveries::AnyFailures);
    }
    if let Some(most) = scope.most_steps {
        builder = builder.target_state_count(most);
    }
    let checker = builder.spawn_bfs().join();
    let found = checker.discoveries();
    let violation = ALWAYS.iter().find_map(|name| {
        let path = found.get(name)?;
        let last = path.last_state();
        let what = last.fault().map(str::to_owned).or_else(|| last.check_calm(&scope).err()).unwrap_or_default();
        let steps: Vec<String> = path.clone().into_actions().iter().map(|action| format!("    {action:?}")).collect();
        Some(format!("  {what}, after\n{}", steps.join("\n")))
    });
    Checked {
        name: scope.name,
        unique: checker.unique_state_count(),
        is_whole: scope.most_steps.is_none_or(|most| checker.state_count() < most),
        generated: checker.state_count(),
        depth: checker.max_depth(),
        took: begun.elapsed(),
        reached: checker.model().reached.names(),
        violation,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// The configurations that CI checks.
    Short,
    /// Those, and the larger ones.
    Whole,
}

/// Checks every configuration whose name contains `name`, and reports each as it ends.
fn configurations(extent: Extent, name: &str, mut tell: impl FnMut(&Checked)) -> Vec<Checked> {
    let larger = scope::LARGER.iter().filter(|_| extent == Extent::Whole);
    let check = |scope: &Scope| {
        let checked = check(*scope, false);
        tell(&checked);
        checked
    };
    scope::SHORT.iter().chain(larger).filter(|scope| scope.name.contains(name)).map(check).collect()
}

/// Removes each rule in turn, and looks for the damage in a configuration that is likely to show it.
fn without_rules(mut tell: impl FnMut(Rule, &Checked)) -> Vec<(Rule, Checked)> {
    let try_without = |rule: &Rule| {
        rule::remove(*rule);
        let checked = check(scope::near(*rule), true);
        rule::restore();
        tell(*rule, &checked);
        (*rule, checked)
    };
    rule::ALL.iter().map(try_without).collect()
}

/// The situations that no configuration reached.
fn unreached(checked: &[Checked]) -> Vec<&'static str> {
    let names = reached::ALL.iter().map(|(name, _)| *name);
    names.filter(|name| checked.iter().all(|one| !one.reached.contains(name))).collect()
}

/// `model`: prints the results of the configurations. Returns whether all is well.
pub(super) fn print_configurations(extent: Extent, name: &str) -> bool {
    let checked = configurations(extent, name, |checked| println!("{checked}"));
    let are_well = !checked.is_empty() && checked.iter().all(|one| one.violation.is_none());
    if !name.is_empty() {
        return are_well;
    }
    let unreached = unreached(&checked);
    println!("{} of {} situations reached {unreached:?}", reached::ALL.len() - unreached.len(), reached::ALL.len());
    are_well && unreached.is_empty()
}

/// `model rules`: removes each rule, and prints whether the damage was found. Returns whether all were found.
pub(super) fn print_rules() -> bool {
    let found = without_rules(|rule, checked| {
        let how = checked.violation.as_deref().and_then(|how| how.lines().next()).map(str::trim);
        let word = if how.is_some() { "found " } else { "MISSED" };
        println!("{word} {:<15} {:>6} states  {}", format!("{rule:?}"), checked.unique, how.unwrap_or_default());
    });
    let missed = found.iter().filter(|(_, checked)| checked.violation.is_none()).count();
    println!("{} of {} removed rules found", found.len() - missed, found.len());
    missed == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A configuration of this size counts as a large one.
    const LARGE: usize = 2_000_000;

    /// Reference: I1 to I11, and P1 to P4 by them.
    #[test]
    fn the_barrier_holds_in_every_state() {
        let checked = configurations(Extent::Short, "", |checked| println!("{checked}"));
        for one in &checked {
            assert!(one.violation.is_none(), "{one}");
        }
        let large = checked.iter().filter(|one| one.unique >= LARGE).count();
        assert!(large >= 2, "{large} configurations of {LARGE} states");
        assert_eq!(unreached(&checked), Vec::<&str>::new(), "never reached");
    }
}
