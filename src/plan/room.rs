//! Decides whether a build fits on a node, and how many old archives of the cache have to go for it.
//!
//! A build needs room twice: for its archive in the cache, and for its tree below `deploy_to`. Both may be on one filesystem.
//! Two rules hold after every fetch: all archives together are within the cache's budget, and each filesystem keeps its
//! reserve free. Archives that are being fetched cannot be removed, and count with their full size. A build that does not
//! fit removes nothing.

/// The room that a build needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_field_names, reason = "names end in their unit")]
pub(crate) struct Wanted {
    /// The size of the whole archive, which counts against the budget.
    pub(crate) archive_bytes: u64,
    /// The part of the archive that is not in the cache yet.
    pub(crate) missing_bytes: u64,
    /// What unpacking writes.
    pub(crate) tree_bytes: u64,
}

/// The cache without the wanted archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stock<'a> {
    /// The most that all archives together may have.
    pub(crate) budget_bytes: u64,
    /// The full sizes of the archives that cannot be removed, because they are being fetched.
    pub(crate) busy_bytes: u64,
    /// The sizes of the other archives, in the order in which they are removed.
    pub(crate) removable: &'a [u64],
}

/// A filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Disk {
    /// Free for the agent's user, without what running fetches and unpacks will still write.
    pub(crate) free_bytes: u64,
    /// What must stay free.
    pub(crate) reserve_bytes: u64,
}

/// Where the cache and the trees are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disks {
    /// On one filesystem. Also if nothing is unpacked.
    One(Disk),
    Two {
        cache: Disk,
        tree: Disk,
    },
}

/// The reason why a build does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shortage {
    /// The archive is larger than the budget, or does not fit into it beside archives that are being fetched.
    Budget { busy_bytes: u64 },
    /// A filesystem is too small.
    Disk {
        place: Place,
        /// Free bytes there, with those of the archives that could be removed.
        free_bytes: u64,
        reserve_bytes: u64,
        /// How much more would have to be free.
        lacking_bytes: u64,
    },
}

/// The part of the node that is too small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The filesystem of the cache.
    Cache,
    /// The filesystem of `deploy_to`.
    Tree,
    /// The filesystem of both.
    Both,
}

/// How many of the removable archives must go, so that the wanted build fits.
pub(crate) fn removals(wanted: Wanted, stock: Stock<'_>, disks: Disks) -> Result<usize, Shortage> {
    let (place, cache, needed_bytes) = match disks {
        Disks::One(disk) => (Place::Both, disk, wanted.missing_bytes.saturating_add(wanted.tree_bytes)),
        Disks::Two { cache, tree } => {
            // No archive is on this filesystem.
            fits(Place::Tree, tree, tree.free_bytes, wanted.tree_bytes)?;
            (Place::Cache, cache, wanted.missing_bytes)
        }
    };
    let place = if wanted.tree_bytes == 0 { Place::Cache } else { place };
    let held = stock.busy_bytes.saturating_add(wanted.archive_bytes);
    if held > stock.budget_bytes {
        return Err(Shortage::Budget { busy_bytes: stock.busy_bytes });
    }
    let total: u64 = stock.removable.iter().fold(0, |sum, size| sum.saturating_add(*size));
    // The answer if all of them had to go. An archive that goes frees its bytes for both rules.
    fits(place, cache, cache.free_bytes.saturating_add(total), needed_bytes)?;
    let mut freed = 0_u64;
    let is_enough = |freed: u64| {
        let left = total.saturating_sub(freed).saturating_add(held);
        left <= stock.budget_bytes && fits(place, cache, cache.free_bytes.saturating_add(freed), needed_bytes).is_ok()
    };
    for (count, size) in stock.removable.iter().enumerate() {
        if is_enough(freed) {
            return Ok(count);
        }
        freed = freed.saturating_add(*size);
    }
    Ok(stock.removable.len())
}

fn fits(place: Place, disk: Disk, free_bytes: u64, needed_bytes: u64) -> Result<(), Shortage> {
    let reserve_bytes = disk.reserve_bytes;
    match needed_bytes.saturating_add(reserve_bytes).checked_sub(free_bytes) {
        None | Some(0) => Ok(()),
        Some(lacking_bytes) => Err(Shortage::Disk { place, free_bytes, reserve_bytes, lacking_bytes }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn disk(free_bytes: u64, reserve_bytes: u64) -> Disk {
        Disk { free_bytes, reserve_bytes }
    }

    fn build(archive_bytes: u64, tree_bytes: u64) -> Wanted {
        Wanted { archive_bytes, missing_bytes: archive_bytes, tree_bytes }
    }

    fn stock(budget_bytes: u64, removable: &[u64]) -> Stock<'_> {
        Stock { budget_bytes, busy_bytes: 0, removable }
    }

    #[test]
    fn as_few_archives_as_needed_go_in_their_order() {
        let roomy = Disks::One(disk(1000, 100));
        for (wanted, budget, expected) in [(10, 55, 0), (10, 54, 1), (10, 35, 1), (10, 34, 2), (30, 30, 3)] {
            let removed = removals(build(wanted, 0), stock(budget, &[20, 15, 10]), roomy);
            assert_eq!(removed, Ok(expected), "{wanted} in {budget}");
        }
        // The budget is large, and the disk is small.
        for (free, expected) in [(140, 0), (139, 1), (120, 1), (119, 2)] {
            let small = Disks::One(disk(free, 100));
            assert_eq!(removals(build(10, 30), stock(1000, &[20, 15]), small), Ok(expected), "{free} free");
        }
    }

    #[test]
    fn a_build_that_does_not_fit_removes_nothing_and_the_shortage_says_what_is_missing() {
        let small = Disks::One(disk(50, 20));
        let shortage = removals(build(40, 60), stock(1000, &[10]), small).unwrap_err();
        let expected = Shortage::Disk { place: Place::Both, free_bytes: 60, reserve_bytes: 20, lacking_bytes: 60 };
        assert_eq!(shortage, expected);
        assert_eq!(removals(build(40, 60), stock(39, &[]), small), Err(Shortage::Budget { busy_bytes: 0 }));
        let busy = Stock { budget_bytes: 100, busy_bytes: 61, removable: &[5] };
        assert_eq!(removals(build(40, 0), busy, small), Err(Shortage::Budget { busy_bytes: 61 }));
    }

    #[test]
    fn old_archives_make_no_room_on_another_filesystem() {
        let apart = |tree| Disks::Two { cache: disk(100, 10), tree: disk(tree, 16) };
        assert_eq!(removals(build(90, 30), stock(1000, &[50]), apart(46)), Ok(0));
        let shortage = Shortage::Disk { place: Place::Tree, free_bytes: 45, reserve_bytes: 16, lacking_bytes: 1 };
        assert_eq!(removals(build(90, 30), stock(1000, &[50]), apart(45)), Err(shortage));
        assert_eq!(removals(build(91, 30), stock(1000, &[50]), apart(46)), Ok(1));
    }

    #[test]
    fn bytes_that_are_in_the_cache_count_against_the_budget_only() {
        let resumed = Wanted { archive_bytes: 40, missing_bytes: 5, tree_bytes: 0 };
        assert_eq!(removals(resumed, stock(50, &[10]), Disks::One(disk(15, 10))), Ok(0));
        assert_eq!(removals(resumed, stock(45, &[10]), Disks::One(disk(15, 10))), Ok(1));
    }

    proptest! {
        #[test]
        fn both_rules_hold_after_the_removals(
            wanted in (0..50_u64, 0..50_u64), free in 0..200_u64, reserve in 0..50_u64,
            budget in 0..200_u64, busy in 0..100_u64, sizes in prop::collection::vec(0..40_u64, 0..6),
        ) {
            let stock = Stock { budget_bytes: budget, busy_bytes: busy, removable: &sizes };
            if let Ok(count) = removals(build(wanted.0, wanted.1), stock, Disks::One(disk(free, reserve))) {
                let (gone, left) = sizes.split_at(count);
                let freed: u64 = gone.iter().sum();
                prop_assert!(left.iter().sum::<u64>() + busy + wanted.0 <= budget);
                prop_assert!(free + freed >= reserve + wanted.0 + wanted.1);
            }
        }
    }
}
