//! Decides which staged builds are kept within a budget of disk space.

use crate::protocol::ids::ArtifactName;

/// A staged build, or one that may be staged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SizedBuild {
    pub(crate) artifact: ArtifactName,
    pub(crate) disk_bytes: u64,
}

/// Those of `builds` that are kept within a budget of disk space: first those in `needed`, which are kept anyway, then those in
/// `wanted`, in this order. One that does not fit is left out, and a smaller one after it may be kept.
#[must_use]
pub(crate) fn staged_within(
    budget_bytes: u64,
    builds: &[SizedBuild],
    needed: &[ArtifactName],
    wanted: &[ArtifactName],
) -> Vec<ArtifactName> {
    let size = |artifact: &ArtifactName| builds.iter().find(|it| it.artifact == *artifact).map(|it| it.disk_bytes);
    let mut kept: Vec<ArtifactName> = Vec::new();
    let mut used_bytes = 0_u64;
    for artifact in needed.iter().chain(wanted) {
        let Some(disk_bytes) = size(artifact).filter(|_| !kept.contains(artifact)) else { continue };
        let with_it = used_bytes.saturating_add(disk_bytes);
        if with_it <= budget_bytes || needed.contains(artifact) {
            kept.push(artifact.clone());
            used_bytes = with_it;
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn staged_builds_are_kept_within_their_budget_the_most_wanted_first() {
        let named = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect::<Vec<ArtifactName>>();
        let sizes = [("a-00000001", 30), ("b-00000001", 50), ("c-00000001", 20), ("d-00000001", 10)];
        let builds = sizes.map(|(name, disk_bytes)| SizedBuild { artifact: name.parse().unwrap(), disk_bytes });
        let wanted = named(&["a-00000001", "b-00000001", "c-00000001", "e-00000001"]);
        for (budget, needed, expected) in [
            (100, &[][..], &["a-00000001", "b-00000001", "c-00000001"][..]),
            (99, &[], &["a-00000001", "b-00000001"]),
            (79, &[], &["a-00000001", "c-00000001"]),
            (0, &[], &[]),
            (60, &["d-00000001"], &["d-00000001", "a-00000001", "c-00000001"]),
            (0, &["a-00000001"], &["a-00000001"]),
        ] {
            assert_eq!(staged_within(budget, &builds, &named(needed), &wanted), named(expected), "{budget}");
        }
    }
}
