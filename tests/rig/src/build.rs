//! A build record for tests and benchmarks.

use cutover::protocol::record::{ArchiveFormat, Build, Place, Summary};

/// The record of an empty build of `master`. Callers set the fields that matter to them.
///
/// # Panics
///
/// Never: the names are valid.
#[must_use]
pub fn sample() -> Build {
    #[expect(clippy::expect_used, reason = "these names are valid")]
    let (artifact, branch, commit, sha256, at) = (
        "master-15e9f13a".parse().expect("a name"),
        "master".parse().expect("a branch"),
        "15e9f13a15e9f13a15e9f13a15e9f13a15e9f13a".parse().expect("a commit"),
        "0".repeat(64).parse().expect("a digest"),
        "2026-11-23T09:15:00Z".parse().expect("a time"),
    );
    Build {
        artifact,
        branch,
        commit,
        summary: Summary::default(),
        sha256,
        packed_bytes: 0,
        unpacked_bytes: 0,
        entries: 0,
        format: ArchiveFormat::TarGz,
        tree: None,
        object: None,
        profile: None,
        pull_request: None,
        tag: None,
        place: Place::default(),
        id: String::new(),
        url: None,
        by: "ci".to_owned(),
        at,
        since: None,
        manifest: None,
        signature: None,
    }
}
