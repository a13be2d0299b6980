//! Disks that are full, or too small, or several: on filesystems of their own, which only root can mount.

use std::fs;
use std::io::{self, Read, Write};

use cutover::plan::unpack::{Limits, LinkPolicy};
use cutover::protocol::record::Step;
use cutover::release::{Control, Site, SiteError};
use cutover_rig::tmpfs::{Tmpfs, mount_at, unmount};

use crate::archive::{Tar, build, gzip};
use crate::confine::OtherThread;
use crate::site::{deploy, names, open};

/// Fills the disk when its first bytes have been read.
struct Filling<'a> {
    archive: &'a [u8],
    /// Fills it: the thread that unpacks can write to its directory only.
    other: Option<OtherThread>,
    reads: u32,
}

impl Read for Filling<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.reads += 1;
        if self.reads == 2 {
            self.other.take().unwrap().work();
        }
        let most = buf.len().min(4096);
        self.archive.read(&mut buf[..most])
    }
}

fn three_mib() -> (Vec<u8>, Limits) {
    let mut random = fastrand::Rng::with_seed(5);
    let noise: Vec<u8> = (0..3 << 20).map(|_| random.u8(..)).collect();
    let tar = noise.chunks(1 << 16).enumerate().fold(Tar::new(), |tar, (n, part)| tar.file(&format!("f{n}"), part));
    (gzip(&tar.end()), Limits { bytes: 3 << 20, entries: 48 })
}

#[test]
fn a_disk_that_fills_up_during_unpack_is_named_and_left_clean() {
    let disk = Tmpfs::mount("size=64m");
    let site = open(disk.path());
    let first = deploy(&site, 1);
    let (packed, limits) = three_mib();
    let build = build("master-2", &packed, limits);
    let filler = disk.path().join("filler");
    let other = OtherThread::doing(move || {
        let mut filler = fs::File::create(filler).unwrap();
        while filler.write_all(&[0; 8192]).is_ok() {}
    });
    let source = Filling { archive: &packed, other: Some(other), reads: 0 };
    let fault = site.stage(&build, LinkPolicy::Inside, source, &Control::default()).unwrap_err();
    assert_eq!(fault.step, Step::Unpack, "{fault}");
    assert!(fault.reason.contains("No space left"), "{fault}");
    assert_eq!(names(&disk.path().join(".cutover/tmp")), Vec::<String>::new());
    assert_eq!(names(&disk.path().join(".cutover/staged")), Vec::<String>::new());
    assert!(site.holds(&first).unwrap());
    // Emptied, not removed: a child process that another test is just starting may have it open for a moment.
    fs::File::create(disk.path().join("filler")).unwrap();
    site.stage(&build, LinkPolicy::Inside, &packed[..], &Control::default()).unwrap();
}

#[test]
fn an_archive_that_will_not_fit_is_refused_before_a_byte_is_read() {
    let disk = Tmpfs::mount("size=18m");
    let site = open(disk.path());
    let (packed, limits) = three_mib();
    let fault =
        site.stage(&build("master-1", &packed, limits), LinkPolicy::Inside, Unread, &Control::default()).unwrap_err();
    assert!(fault.step == Step::Unpack && fault.reason.contains("are free"), "{fault}");
    let disk = Tmpfs::mount("size=64m,nr_inodes=100");
    let site = open(disk.path());
    let fault =
        site.stage(&build("master-1", &packed, limits), LinkPolicy::Inside, Unread, &Control::default()).unwrap_err();
    assert!(fault.step == Step::Unpack && fault.reason.contains("inodes"), "{fault}");
}

struct Unread;

impl Read for Unread {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        panic!("the source was read");
    }
}

#[test]
fn releases_on_a_filesystem_of_their_own_are_refused() {
    let disk = Tmpfs::mount("size=1m");
    let releases = disk.path().join("releases");
    fs::create_dir(&releases).unwrap();
    mount_at("size=1m", &releases);
    let refused = Site::open(disk.path());
    unmount(&releases);
    let Err(SiteError::OtherFilesystem { path, .. }) = refused else { panic!("{refused:?}") };
    assert_eq!(path, releases);
}
