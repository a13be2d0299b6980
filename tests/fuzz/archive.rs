//! Unpacks any bytes as an archive: reader, unpack plan and writers, on a real directory.
//!
//! Input that is neither gzip nor zstd is taken for a tar and wrapped in gzip, so that most inputs reach the tar reader.
//! Whatever the archive says: nothing is written outside the release, no link leads out of it, no mode has set-id or sticky bits,
//! every directory gives its owner all rights, the build record's limits hold, a refused archive leaves nothing, and `publish`
//! accepts exactly what is unpacked.
#![no_main]

use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use cutover::artifact::inspect;
use cutover::plan::unpack::{Limits, LinkPolicy};
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
    let expected =
        Expected { sha256: &sha256, packed_bytes: packed.len() as u64, limits: LIMITS, links: LinkPolicy::Inside };
    let unpacked = unpack(&packed[..], &release, &expected, &Control::default());
    let siblings = names(base.path()).chain(names(&base.path().join("releases"))).collect::<Vec<_>>();
    let file = base.path().join("packed");
    std::fs::write(&file, &packed).expect("a file can be written");
    if let Ok(inspected) = inspect(&file, LinkPolicy::Inside) {
        let fits = inspected.unpacked_bytes <= LIMITS.bytes && (1..=LIMITS.entries).contains(&inspected.entries);
        assert_eq!(unpacked.is_ok(), fits, "{unpacked:?}");
    } else {
        assert!(unpacked.is_err(), "publish refuses it");
    }
    match unpacked {
        Err(_) => assert_eq!(siblings, ["releases"], "a refused archive leaves nothing"),
        Ok(_) => {
            assert_eq!(siblings, ["releases", "new"], "nothing is written outside the release");
            let mut found = Found::default();
            found.look(&release, &release);
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
    fn look(&mut self, dir: &Path, release: &Path) {
        for entry in std::fs::read_dir(dir).expect("the directory is there") {
            let path = entry.expect("the directory is readable").path();
            let meta = path.symlink_metadata().expect("the entry is there");
            let mode = meta.permissions().mode() & 0o7777;
            if meta.is_dir() {
                assert_eq!(mode & 0o7700, 0o700, "{}", path.display());
                self.look(&path, release);
            } else if meta.is_symlink() {
                // A link to nothing cannot be resolved; its text is a matter of the plan's own tests.
                if let Ok(target) = path.canonicalize() {
                    let release = release.canonicalize().expect("the release is there");
                    assert!(target.starts_with(&release), "{} leads to {}", path.display(), target.display());
                }
            } else {
                assert!(meta.is_file(), "{} is neither file, directory nor link", path.display());
                assert_eq!(mode & 0o7000, 0, "{}: {mode:o}", path.display());
                // A second name of a file is not counted by the plan.
                self.bytes += if meta.nlink() == 1 { meta.len() } else { 0 };
            }
        }
    }
}
