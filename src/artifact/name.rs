//! The names of artifacts and their objects.
//!
//! A name is computed from branch and commit, and never parsed. Branch and commit are read from the build record.
//!
//! Several branches can reduce to the same name (`feature/x` and `feature-x`), and so can a tag or a pull request. At one
//! commit, the first of them gets the short name, and the others a name with six digits of their own
//! ([`distinct_name`]). [`control::naming`](crate::control::naming) finds out which is the first.
//!
//! The name of an object contains digits of a digest of its content: of the archive's bytes, or of the tree and the way in which
//! it is packed, because an upload needs the name before the last byte of the archive is known. So two archives of one artifact
//! are two objects: an upload never replaces the object that a record names by other bytes. Two branches whose short names are
//! the same have two objects as well, even of the same bytes: whoever loses the name removes its own object, and never that of
//! the branch that has the name. It is never parsed either. Everything that needs the key of a build's object asks
//! [`object_key`].

use sha2::{Digest, Sha256};

use crate::protocol::git_ref::{BuildRef, RefKind};
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
    with_commit(flatten(branch), commit, rebuild)
}

/// The artifact's name where another branch took the short one at this commit: `feature-x-c791eb-15e9f13a`, with six hex
/// digits of the branch's SHA-256, or of a full name for a tag or a pull request.
#[must_use]
pub(crate) fn distinct_name(of: BuildRef<'_>, commit: &Commit, rebuild: Option<u32>) -> ArtifactName {
    with_commit(with_digits(plain(of.name), &of.distinction()), commit, rebuild)
}

fn with_commit(mut name: String, commit: &Commit, rebuild: Option<u32>) -> ArtifactName {
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
    let flat = plain(branch);
    if flat.len() > LONGEST_BRANCH_BYTES { with_digits(flat, branch.as_str()) } else { flat }
}

/// The branch with only the characters of names.
fn plain(branch: &Branch) -> String {
    let plain = |b: u8| if b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-') { b as char } else { '-' };
    branch.as_str().bytes().map(plain).collect()
}

/// The name, cut so that digits of the SHA-256 of `distinction` fit behind it.
fn with_digits(mut flat: String, distinction: &str) -> String {
    flat.truncate(LONGEST_BRANCH_BYTES - BRANCH_DIGEST_DIGITS - 1);
    flat.push('-');
    flat.push_str(&digits_of(distinction));
    flat
}

/// Six digits that distinguish branches, tags and pull requests.
fn digits_of(distinction: &str) -> String {
    hex::encode(Sha256::digest(distinction.as_bytes())).chars().take(BRANCH_DIGEST_DIGITS).collect()
}

/// The name of a new object, with digits of a digest of its content: `master-15e9f13a-3c0a1fe2b94d7705.tar.gz`. If something else
/// than the branch that the artifact's name spells out was built, six digits of that follow, for `feature/x` in
/// `feature-x-15e9f13a-3c0a1fe2b94d7705-217d2b.tar.gz`.
///
/// # Panics
///
/// Never: a valid artifact's name with digits and extension is a valid object's name, and short enough.
#[must_use]
pub(crate) fn object_name(
    artifact: &ArtifactName,
    of: BuildRef<'_>,
    commit: &Commit,
    digest: &Digest256,
    format: ArchiveFormat,
) -> ObjectName {
    let spelt_out =
        of.kind == RefKind::Branch && artifact.as_str().starts_with(&format!("{}-{}", of.name, commit.short()));
    let mut digits: String = digest.as_str().chars().take(OBJECT_DIGEST_DIGITS).collect();
    if !spelt_out {
        digits.push('-');
        digits.push_str(&digits_of(&of.distinction()));
    }
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

/// The key of a build's manifest: that of its archive, with another end.
#[must_use]
pub(crate) fn manifest_key(archive_key: &str) -> String {
    format!("{archive_key}.manifest.zst")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::record::ArchiveFormat;

    fn object_of(build: &Build) -> ObjectName {
        object_name(&build.artifact, build.of(), &build.commit, &build.sha256, build.format)
    }

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
        assert_eq!(manifest_key(&object_key(&app, &build)), "shop/anything-else.manifest.zst");
    }

    #[test]
    fn other_bytes_of_one_artifact_are_another_object() {
        let name = |digest: &str| object_of(&Build { sha256: digest.repeat(64).parse().unwrap(), ..longest() });
        assert_eq!(name("a").as_str(), format!("{}-{}.tar.gz", longest().artifact, "a".repeat(16)));
        assert_ne!(name("a"), name("b"));
    }

    fn longest() -> Build {
        let branch: Branch = "x".repeat(100).parse().unwrap();
        Build { branch, ..Build::sample(&format!("{}-15e9f13a", "x".repeat(100))) }
    }

    #[test]
    fn the_same_bytes_of_another_branch_with_the_same_name_are_another_object() {
        let plain = Build::sample("feature-x-15e9f13a");
        let branch: Branch = "feature/x".parse().unwrap();
        let (tag, pull_request) = (Some(plain.branch.clone()), Some("7".to_owned()));
        let others = [
            Build { branch, ..plain.clone() },
            Build { tag, ..plain.clone() },
            Build { pull_request, ..plain.clone() },
        ];
        let mut names: Vec<String> = others.iter().map(|build| object_of(build).to_string()).collect();
        assert_eq!(names[0], "feature-x-15e9f13a-0000000000000000-217d2b.tar.gz");
        // Another branch may be called what a distinct or a shortened name spells out.
        let spelt = Build::sample("feature-x-c791eb-15e9f13a");
        let distinct = Build { branch: plain.branch.clone(), ..spelt.clone() };
        names.extend([&plain, &spelt, &distinct].map(|build| object_of(build).to_string()));
        assert_eq!(names[3], "feature-x-15e9f13a-0000000000000000.tar.gz");
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 6, "{names:?}");
        let rebuild = Build { artifact: "feature-x-15e9f13a.2".parse().unwrap(), ..plain };
        assert_eq!(object_of(&rebuild).as_str(), "feature-x-15e9f13a.2-0000000000000000.tar.gz");
    }

    #[test]
    fn a_distinct_name_has_six_digits_of_what_was_built() {
        let commit = "15e9f13a00000000000000000000000000000000".parse().unwrap();
        let branch: Branch = "feature-x".parse().unwrap();
        let distinct = |tag: Option<&Branch>, pull_request, rebuild| {
            distinct_name(BuildRef::new(&branch, tag, pull_request), &commit, rebuild).to_string()
        };
        let digits = |text: &str| hex::encode(Sha256::digest(text.as_bytes()))[..6].to_owned();
        let own = distinct(None, None, None);
        assert_eq!(own, format!("feature-x-{}-15e9f13a", digits("feature-x")));
        assert_eq!(distinct(None, None, Some(2)), format!("{own}.2"));
        let tag = distinct(Some(&branch), None, None);
        assert_eq!(tag, format!("feature-x-{}-15e9f13a", digits("refs/tags/feature-x")));
        assert_ne!(distinct(None, Some("7"), None), distinct(None, Some("8"), None));
        let long: Branch = "x".repeat(120).parse().unwrap();
        let of = BuildRef::new(&long, None, None);
        assert_eq!(distinct_name(of, &commit, None), artifact_name(&long, &commit, None), "it has the digits already");
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
