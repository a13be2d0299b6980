//! What happens to an archive on its way: cut, flipped, slow, failing, canceled.

use std::io::{self, Read};

use cutover::plan::unpack::{Limits, LinkPolicy};
use cutover::release::{Control, Expected, UnpackError, unpack};

use crate::archive::{ROOM, Tar, gzip, sha256, unpack_as_recorded, zstd};

fn good() -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(7);
    let noise: Vec<u8> = (0..40_000).map(|_| random.u8(..) & 0x3f).collect();
    Tar::new().dir("d/").file("d/a", &noise).link("l", "d/a").file("b", b"small").hard("h", "b").end()
}

#[test]
fn an_archive_that_is_cut_anywhere_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let release = dir.path().join("release");
    for packed in [gzip(&good()), zstd(&good())] {
        let whole = sha256(&packed);
        for cut in (0..200).map(|n| n * packed.len() / 200).chain(packed.len() - 12..packed.len()) {
            // The record is about the whole archive, or about the cut one: a publisher may have had no more.
            let expected =
                Expected { sha256: &whole, packed_bytes: packed.len() as u64, limits: ROOM, links: LinkPolicy::Inside };
            let result = unpack(&packed[..cut], &release, &expected, &Control::default());
            assert!(matches!(result, Err(UnpackError::TooShort { .. })), "cut at {cut}: {result:?}");
            let result = unpack_as_recorded(&packed[..cut], &release, ROOM);
            assert!(matches!(result, Err(UnpackError::Archive(_))), "recorded as cut at {cut}: {result:?}");
            assert!(!release.exists(), "cut at {cut} left something");
        }
    }
}

#[test]
fn a_flipped_bit_is_always_seen() {
    let dir = tempfile::tempdir().unwrap();
    let release = dir.path().join("release");
    let mut random = fastrand::Rng::with_seed(11);
    for packed in [gzip(&good()), zstd(&good())] {
        let whole = sha256(&packed);
        for _ in 0..300 {
            let bit = random.usize(..packed.len() * 8);
            let mut flipped = packed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let expected =
                Expected { sha256: &whole, packed_bytes: packed.len() as u64, limits: ROOM, links: LinkPolicy::Inside };
            let result = unpack(&flipped[..], &release, &expected, &Control::default());
            assert!(matches!(result, Err(UnpackError::Digest { .. })), "bit {bit}: {result:?}");
            assert!(!release.exists(), "bit {bit} left something");
        }
    }
}

#[test]
fn an_archive_that_goes_on_is_not_read_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let packed = gzip(&good());
    let whole = sha256(&packed);
    let expected =
        Expected { sha256: &whole, packed_bytes: packed.len() as u64, limits: ROOM, links: LinkPolicy::Inside };
    let endless = packed.chain(io::repeat(0));
    let result = unpack(endless, &dir.path().join("release"), &expected, &Control::default());
    assert!(matches!(result, Err(UnpackError::TooLong { .. })), "{result:?}");
}

/// Gives one byte at a time, with interruptions.
struct Drip<'a>(&'a [u8], bool);

impl Read for Drip<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.1 = !self.1;
        if self.1 {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let most = buf.len().min(1);
        self.0.read(&mut buf[..most])
    }
}

#[test]
fn a_source_may_give_single_bytes_and_be_interrupted() {
    let dir = tempfile::tempdir().unwrap();
    for (n, packed) in [gzip(&good()), zstd(&good())].iter().enumerate() {
        let whole = sha256(packed);
        let expected =
            Expected { sha256: &whole, packed_bytes: packed.len() as u64, limits: ROOM, links: LinkPolicy::Inside };
        unpack(Drip(packed, false), &dir.path().join(n.to_string()), &expected, &Control::default()).unwrap();
    }
}

/// Fails, or calls `at_end`, once its bytes are read.
struct Ending<'a, F>(&'a [u8], F);

impl<F: FnMut() -> io::Result<usize>> Read for Ending<'_, F> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() { (self.1)() } else { self.0.read(buf) }
    }
}

#[test]
fn a_source_that_fails_is_told_apart_from_a_damaged_archive() {
    let dir = tempfile::tempdir().unwrap();
    let release = dir.path().join("release");
    for packed in [gzip(&good()), zstd(&good())] {
        let whole = sha256(&packed);
        let expected =
            Expected { sha256: &whole, packed_bytes: packed.len() as u64, limits: ROOM, links: LinkPolicy::Inside };
        for at in [0, 1, 3, 4, 100, packed.len() / 2, packed.len() - 1] {
            let source = Ending(&packed[..at], || Err(io::Error::from(io::ErrorKind::ConnectionReset)));
            let result = unpack(source, &release, &expected, &Control::default());
            let Err(UnpackError::Source(error)) = result else { panic!("failed at {at}: {result:?}") };
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
            assert!(!release.exists());
        }
    }
}

#[test]
fn a_canceled_unpack_leaves_no_files() {
    let dir = tempfile::tempdir().unwrap();
    let release = dir.path().join("release");
    let packed = gzip(&good());
    let whole = sha256(&packed);
    let expected =
        Expected { sha256: &whole, packed_bytes: packed.len() as u64, limits: ROOM, links: LinkPolicy::Inside };
    for at in [0, 10, packed.len() / 2, packed.len()] {
        let control = Control::default();
        let source = Ending(&packed[..at], || {
            control.cancel();
            Ok(0)
        });
        let result = unpack(source, &release, &expected, &control);
        assert!(matches!(result, Err(UnpackError::Canceled)), "canceled at {at}: {result:?}");
        assert!(!release.exists());
    }
}

#[test]
fn the_limits_are_those_of_the_record_and_not_the_archives() {
    let dir = tempfile::tempdir().unwrap();
    let packed = gzip(&good());
    for limits in [Limits { bytes: 40_004, entries: 10 }, Limits { bytes: 40_005, entries: 4 }] {
        let result = unpack_as_recorded(&packed, &dir.path().join("release"), limits);
        assert!(matches!(result, Err(UnpackError::Refused(_))), "{result:?}");
    }
    unpack_as_recorded(&packed, &dir.path().join("release"), Limits { bytes: 40_005, entries: 5 }).unwrap();
}
