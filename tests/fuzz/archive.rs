//! Unpacks any bytes as an archive: reader, unpack plan and writers, on a real directory.
//!
//! Input that is neither gzip nor zstd is taken for a tar and wrapped in gzip, so that most inputs reach the tar reader.
//! Whatever the archive says: nothing is written outside the release, no link leads out of it, all modes are 0755 or
//! 0644, the build record's limits hold, and a refused archive leaves nothing.
#![no_main]

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path};

use cutover::plan::unpack::Limits;
use cutover::release::{Control, Expected, unpack};
use flate2::Compression;
use flate2::write::GzEncoder;
use libfuzzer_sys::fuzz_target;
use sha2::Digest as _;

const LIMITS: Limits = Limits { bytes: 1 << 20, entries: 200 };
const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

fuzz_target!(|input: &[u8]| {
    let packed = packed(input);
    let base = tempfile::tempdir().expect("a directory can be made");
    let release = base.path().join("releases/new");
    std::fs::create_dir(base.path().join("releases")).expect("a directory can be made");
    let sha256 = hex::encode(sha2::Sha256::digest(&packed)).parse().expect("a digest is 64 hex digits");
    let expected = Expected { sha256: &sha256, packed_bytes: packed.len() as u64, limits: LIMITS };
    let unpacked = unpack(&packed[..], &release, &expected, 1, &Control::default());
    let siblings = names(base.path()).chain(names(&base.path().join("releases"))).collect::<Vec<_>>();
    match unpacked {
        Err(_) => assert_eq!(siblings, ["releases"], "a refused archive leaves nothing"),
        Ok(_) => {
            assert_eq!(siblings, ["releases", "new"], "nothing is written outside the release");
            let mut found = Found::default();
            found.look(&release, 0);
            assert!(found.bytes <= LIMITS.bytes, "{} bytes", found.bytes);
        }
    }
});

fn packed(input: &[u8]) -> Vec<u8> {
    if input.starts_with(GZIP) || input.starts_with(ZSTD) {
        return input.to_vec();
    }
    let mut gzip = GzEncoder::new(Vec::new(), Compression::none());
    gzip.write_all(input).and_then(|()| gzip.finish()).expect("memory takes every byte")
}

fn names(dir: &Path) -> impl Iterator<Item = String> {
    let entries = std::fs::read_dir(dir).expect("the directory is there");
    entries.map(|entry| entry.expect("the directory is readable").file_name().to_string_lossy().into_owned())
}

/// What lies in a release.
#[derive(Default)]
struct Found {
    bytes: u64,
}

impl Found {
    fn look(&mut self, dir: &Path, depth: usize) {
        for entry in std::fs::read_dir(dir).expect("the directory is there") {
            let path = entry.expect("the directory is readable").path();
            let meta = path.symlink_metadata().expect("the entry is there");
            let mode = meta.permissions().mode() & 0o7777;
            if meta.is_dir() {
                assert_eq!(mode, 0o755, "{}", path.display());
                self.look(&path, depth + 1);
            } else if meta.is_symlink() {
                assert_stays_inside(&std::fs::read_link(&path).expect("it is a link"), depth);
            } else {
                assert!(meta.is_file(), "{} is neither file, directory nor link", path.display());
                assert!(mode == 0o755 || mode == 0o644, "{}: {mode:o}", path.display());
                self.bytes += meta.len();
            }
        }
    }
}

/// A link's target is relative and leads no further up than the release, whose root is `depth` directories above.
fn assert_stays_inside(target: &Path, depth: usize) {
    let mut left = depth;
    for component in target.components() {
        match component {
            Component::ParentDir => left = left.checked_sub(1).expect("the link leads out of the release"),
            Component::Normal(_) => left += 1,
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => panic!("{} is absolute", target.display()),
        }
    }
}
