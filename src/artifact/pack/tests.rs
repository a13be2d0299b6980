//! The name of an object is known before its bytes, so the bytes must not change without the name.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::atomic::AtomicU64;

use tokio_util::sync::CancellationToken;

use super::*;
use crate::protocol::record::ArchiveFormat;

/// What one way of packing makes of [`sample`].
#[derive(Debug, PartialEq, Eq)]
struct Way {
    format: ArchiveFormat,
    /// The first digits of [`Tree::archive_digest`], which are in the object's name.
    named: &'static str,
    /// The first digits of the archive's digest.
    bytes: &'static str,
}

/// Every way of packing that there was, the newest ones last. Never edit a line: if a test fails because the bytes have changed,
/// raise `PACKING` (write.rs), and add two lines.
const WAYS: [Way; 2] = [
    Way { format: ArchiveFormat::TarGz, named: "7e3111314d8b2961", bytes: "7e5644d369bbe7e9" },
    Way { format: ArchiveFormat::TarZst, named: "07e586ad80412e89", bytes: "aae9132043fb4abf" },
];

/// The same text and noise everywhere and always: several blocks of either compressor, some of which do not shrink.
fn content(bytes: usize) -> Vec<u8> {
    let (mut state, mut content) = (1_u64, Vec::with_capacity(bytes + 64));
    while content.len() < bytes {
        // Knuth's MMIX generator, whose upper half is used.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let number = state >> 32;
        if content.len() / 700_000 % 3 == 2 {
            content.extend_from_slice(&number.to_le_bytes()[..4]);
        } else {
            content.extend_from_slice(format!("let line_{} = next({});\n", content.len(), number % 97).as_bytes());
        }
    }
    content.truncate(bytes);
    content
}

fn sample() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    fs::create_dir(at("bin")).unwrap();
    fs::create_dir(at("empty")).unwrap();
    fs::write(at("bin/run"), "#!/bin/sh\n").unwrap();
    fs::write(at("bin/large"), content(9_000_000)).unwrap();
    fs::write(at(&"long".repeat(50)), "a name for a pax header").unwrap();
    symlink("bin/run", at("start")).unwrap();
    for (name, mode) in [("bin", 0o755), ("empty", 0o700), ("bin/run", 0o755), ("bin/large", 0o644)] {
        fs::set_permissions(at(name), Permissions::from_mode(mode)).unwrap();
    }
    fs::set_permissions(at(&"long".repeat(50)), Permissions::from_mode(0o600)).unwrap();
    root
}

#[test]
fn other_bytes_of_an_archive_get_another_name() {
    let (dir, read, stop) = (sample(), AtomicU64::new(0), CancellationToken::new());
    let watch = Watch { read: &read, stop: &stop };
    let packing = Packing { mtimes: Mtimes::All(1_600_000_000), links: LinkPolicy::Inside, git: GitDir::LeaveOut };
    let tree = Tree::scan(dir.path(), &packing, watch).unwrap();
    for format in [ArchiveFormat::TarGz, ArchiveFormat::TarZst] {
        let bytes = tree.pack(format, io::sink(), watch).unwrap().sha256;
        let named = tree.archive_digest(format);
        let digits = |digest: &Sha256| digest.as_str()[..16].to_owned();
        let newest = WAYS.iter().rfind(|way| way.format == format).unwrap();
        assert_eq!((&*digits(&named), &*digits(&bytes)), (newest.named, newest.bytes), "{format:?}");
    }
    for (index, way) in WAYS.iter().enumerate() {
        let is_used = WAYS[..index].iter().any(|other| other.named == way.named);
        assert!(!is_used, "{way:?} has the name of other bytes");
    }
}
