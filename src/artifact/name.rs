//! The names of artifacts and their objects.
//!
//! A name is computed from branch and commit, and never parsed: two branches can give the same name (`feature/x` and
//! `feature-x`). Branch and commit are read from the build record.
//!
//! The name of an object contains digits of the archive's digest, so two archives of one artifact are two objects: an upload
//! never replaces the object that a record names by other bytes. It is never parsed either. Everything that needs the key of a
//! build's object asks [`object_key`].

use sha2::{Digest, Sha256};

use crate::protocol::ids::{App, ArtifactName, Branch, Commit, ObjectName, Sha256 as Digest256};
use crate::protocol::record::{ArchiveFormat, Build};

/// The longest branch part of an artifact's name, in bytes. With 9 bytes for the commit and at most 11 for a rebuild, a name
/// is shorter than the 128 bytes of [`ArtifactName`].
const LONGEST_BRANCH_BYTES: usize = 100;

/// Hex digits of the branch's SHA-256 that distinguish shortened branches.
const BRANCH_DIGEST_DIGITS: usize = 6;

/// Hex digits of the archive's SHA-256 in the name of its object: 64 bits, far more than the archives of one artifact need.
const OBJECT_DIGEST_DIGITS: usize = 16;

/// The artifact's name for a build of `commit` on `branch`: `master-15e9f13a`, or `master-15e9f13a.2` for the second
/// build of the same commit.
///
/// # Panics
///
/// Never: a flattened [`Branch`] is a valid start of a name (verified by a property test).
#[must_use]
pub(crate) fn artifact_name(branch: &Branch, commit: &Commit, rebuild: Option<u32>) -> ArtifactName {
    let mut name = flatten(branch);
    name.push('-');
    name.push_str(commit.short());
    if let Some(number) = rebuild {
        name.push('.');
        name.push_str(&number.to_string());
    }
    #[expect(clippy::expect_used, reason = "a branch has no leading dot, and every other byte was replaced")]
    name.parse().expect("a flattened branch is a valid name")
}

/// The branch with only the characters of names, cut to [`LONGEST_BRANCH_BYTES`].
fn flatten(branch: &Branch) -> String {
    let plain = |b: u8| if b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-') { b as char } else { '-' };
    let mut flat: String = branch.as_str().bytes().map(plain).collect();
    if flat.len() > LONGEST_BRANCH_BYTES {
        let digest = hex::encode(Sha256::digest(branch.as_str().as_bytes()));
        flat.truncate(LONGEST_BRANCH_BYTES - BRANCH_DIGEST_DIGITS - 1);
        flat.push('-');
        flat.extend(digest.chars().take(BRANCH_DIGEST_DIGITS));
    }
    flat
}

/// The name of a new object: `master-15e9f13a-3c0a1fe2b94d7705.tar.gz`.
///
/// # Panics
///
/// Never: a valid artifact's name with digits and extension is a valid object's name, and short enough.
#[must_use]
pub(crate) fn object_name(artifact: &ArtifactName, sha256: &Digest256, format: ArchiveFormat) -> ObjectName {
    let digits: String = sha256.as_str().chars().take(OBJECT_DIGEST_DIGITS).collect();
    let name = format!("{artifact}-{digits}.{}", format.extension());
    #[expect(clippy::expect_used, reason = "an artifact's name is at most 128 bytes of the same characters")]
    name.parse().expect("a longer artifact's name is a valid object's name")
}

/// The key of a build's object below the store's prefix: `<app>/<object>`, or `<app>/<artifact>.tar.gz` where the record of an
/// older version names no object.
#[must_use]
pub(crate) fn object_key(app: &App, build: &Build) -> String {
    match &build.object {
        Some(object) => format!("{app}/{object}"),
        None => format!("{app}/{}.{}", build.artifact, build.format.extension()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(branch: &str, rebuild: Option<u32>) -> String {
        let commit = "15e9f13a00000000000000000000000000000000".parse().unwrap();
        artifact_name(&branch.parse().unwrap(), &commit, rebuild).to_string()
    }

    #[test]
    fn names_consist_of_flattened_branch_and_short_commit() {
        assert_eq!(name("master", None), "master-15e9f13a");
        assert_eq!(name("master", Some(2)), "master-15e9f13a.2");
        assert_eq!(name("feature/login", None), "feature-login-15e9f13a");
        assert_eq!(name("ü", None), "---15e9f13a", "every byte is replaced, not every character");
    }

    #[test]
    fn only_branches_over_100_bytes_are_cut() {
        let (fits, long) = ("x".repeat(100), "x".repeat(101));
        assert_eq!(name(&fits, None), format!("{fits}-15e9f13a"));
        let digest = hex::encode(Sha256::digest(long.as_bytes()));
        assert_eq!(name(&long, None), format!("{}-{}-15e9f13a", &long[..93], &digest[..6]));
    }

    #[test]
    fn an_objects_key_comes_from_the_record() {
        let app = "shop".parse().unwrap();
        let mut build = Build::sample("master-15e9f13a");
        assert_eq!(object_key(&app, &build), "shop/master-15e9f13a.tar.gz", "as older versions named it");
        build.format = ArchiveFormat::TarZst;
        assert_eq!(object_key(&app, &build), "shop/master-15e9f13a.tar.zst");
        build.object = Some("anything-else".parse().unwrap());
        assert_eq!(object_key(&app, &build), "shop/anything-else");
    }

    #[test]
    fn other_bytes_of_one_artifact_are_another_object() {
        let artifact = "x".repeat(128).parse().unwrap();
        let name = |digest: &str| object_name(&artifact, &digest.repeat(64).parse().unwrap(), ArchiveFormat::TarGz);
        assert_eq!(name("a").as_str(), format!("{artifact}-{}.tar.gz", "a".repeat(16)));
        assert_ne!(name("a"), name("b"));
    }

    proptest! {
        #[test]
        fn every_branch_has_a_valid_name(branch in "\\PC{1,255}", rebuild in any::<Option<u32>>()) {
            if branch.parse::<Branch>().is_ok() {
                prop_assert!(name(&branch, rebuild).len() <= 128);
            }
        }

        #[test]
        fn different_long_branches_have_different_names(a in "[a-z]{1,50}", b in "[a-z]{1,50}") {
            prop_assume!(a != b);
            let long = "team/".repeat(24);
            prop_assert_ne!(name(&format!("{long}{a}"), None), name(&format!("{long}{b}"), None));
        }
    }
}
