//! The threads of an unpack can write to the directory of the unpack only, where the kernel has Landlock.
//!
//! A source is read on the thread that unpacks. So a source that writes to the disk stands for a bug there.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use cutover::plan::unpack::{Limits, LinkPolicy};
use cutover::release::{Confinement, Control, Expected, UnpackError, Unpacked, unpack};
use rustix::fs::{CWD, FileType, Mode, mknodat, rename};
use rustix::io::Errno;

use crate::archive::{Tar, gzip, sha256, unpack_as_recorded};
use crate::site::{SMALL, names};

/// A thread with all rights, which does its work when another thread waits for it.
pub(crate) struct OtherThread {
    start: SyncSender<()>,
    done: Receiver<()>,
}

impl OtherThread {
    pub(crate) fn doing(work: impl FnOnce() + Send + 'static) -> Self {
        let (start, waited_for) = sync_channel(1);
        let (ended, done) = sync_channel(1);
        std::thread::spawn(move || {
            // An error: the test has failed before.
            if waited_for.recv().is_ok() {
                work();
                ended.send(()).unwrap();
            }
        });
        Self { start, done }
    }

    pub(crate) fn work(self) {
        self.start.send(()).unwrap();
        self.done.recv().unwrap();
    }
}

/// Does something on the thread that unpacks, as soon as `when` holds.
struct Trying<'a, W, T> {
    archive: &'a [u8],
    when: W,
    tries: Option<T>,
}

impl<W: Fn() -> bool, T: FnOnce()> Read for Trying<'_, W, T> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if (self.when)()
            && let Some(tries) = self.tries.take()
        {
            tries();
        }
        let most = buf.len().min(4096);
        self.archive.read(&mut buf[..most])
    }
}

/// Unpacks a good archive, and does `tries` on the thread that unpacks.
fn unpack_trying<W, T>(
    archive: &[u8],
    dir: &Path,
    limits: Limits,
    control: &Control,
    when: W,
    tries: T,
) -> Result<Unpacked, UnpackError>
where
    W: Fn() -> bool + Send,
    T: FnOnce() + Send,
{
    let sha256 = sha256(archive);
    let expected = Expected { sha256: &sha256, packed_bytes: archive.len() as u64, limits, links: LinkPolicy::Inside };
    unpack(Trying { archive, when, tries: Some(tries) }, dir, &expected, control)
}

fn small() -> Vec<u8> {
    gzip(&Tar::new().dir("./").file("./app", b"app").end())
}

/// One operation, and whether the kernel did it.
type Outcome = (&'static str, io::Result<()>);

/// What an unpack needs. Leaves two files behind: `own`, and `moved`.
fn inside(dir: &Path) -> Vec<Outcome> {
    vec![
        ("create a file", fs::write(dir.join("own"), "own")),
        ("create a directory", fs::create_dir(dir.join("sub"))),
        ("create a link", symlink("own", dir.join("link"))),
        ("link a file into another directory", fs::hard_link(dir.join("own"), dir.join("sub/hard"))),
        ("rename a file into another directory", moved(&dir.join("sub/hard"), &dir.join("moved"))),
        ("append", append(&dir.join("own"))),
        ("truncate", File::create(dir.join("own")).map(drop)),
        ("remove a file", fs::remove_file(dir.join("link"))),
        ("remove a directory", fs::remove_dir(dir.join("sub"))),
    ]
}

/// What no unpack does. Each succeeds for a thread with all rights, in this order, after [`inside`].
fn outside(dir: &Path, beside: &Path) -> Vec<Outcome> {
    let fifo = |path| Ok(mknodat(CWD, path, FileType::Fifo, Mode::RWXU, 0)?);
    vec![
        ("create a file", fs::write(beside.join("new"), "new")),
        ("create a directory", fs::create_dir(beside.join("dir"))),
        ("create a link", symlink("kept", beside.join("link"))),
        ("create a pipe", fifo(beside.join("fifo"))),
        ("create a pipe inside", fifo(dir.join("fifo"))),
        ("link a file to the outside", fs::hard_link(dir.join("own"), beside.join("hard"))),
        ("link a file of the outside", fs::hard_link(beside.join("kept"), dir.join("stolen"))),
        ("rename a file to the outside", moved(&dir.join("moved"), &beside.join("moved"))),
        ("rename a file of the outside", moved(&beside.join("first"), &dir.join("first"))),
        (
            "write to a file by a link",
            symlink(beside.join("kept"), dir.join("out")).and_then(|()| append(&dir.join("out"))),
        ),
        ("append", append(&beside.join("kept"))),
        ("truncate", File::create(beside.join("kept")).map(drop)),
        ("write to a device", fs::write("/dev/null", "x")),
        ("remove a file", fs::remove_file(beside.join("kept"))),
        ("remove a directory", fs::remove_dir(beside.join("empty"))),
    ]
}

fn moved(from: &Path, to: &Path) -> io::Result<()> {
    Ok(rename(from, to)?)
}

fn append(path: &Path) -> io::Result<()> {
    File::options().append(true).open(path)?.write_all(b"more")
}

/// Landlock's two errors: a link or a rename between directories gives the second.
fn is_refusal(error: &io::Error) -> bool {
    [Errno::ACCESS, Errno::XDEV].contains(&Errno::from_io_error(error).unwrap())
}

#[test]
fn a_thread_that_unpacks_can_write_to_its_directory_only() {
    let dir = tempfile::tempdir().unwrap();
    let (release, beside) = (dir.path().join("release"), dir.path().join("beside"));
    fs::create_dir_all(beside.join("empty")).unwrap();
    fs::write(beside.join("kept"), "kept").unwrap();
    fs::write(beside.join("first"), "first").unwrap();
    let (mut in_it, mut out_of_it) = (Vec::new(), Vec::new());
    let other = {
        let beside = beside.clone();
        OtherThread::doing(move || fs::write(beside.join("by-another-thread"), "x").unwrap())
    };
    let tries = || {
        in_it = inside(&release);
        out_of_it = outside(&release, &beside);
        other.work();
    };
    unpack_trying(&small(), &release, SMALL, &Control::default(), || true, tries).unwrap();
    for (what, outcome) in &in_it {
        assert!(outcome.is_ok(), "{what}: {outcome:?}");
    }
    assert_eq!(fs::read(beside.join("by-another-thread")).unwrap(), b"x");
    match Confinement::of_this_process() {
        Confinement::On(_) => {
            for (what, outcome) in &out_of_it {
                assert!(outcome.as_ref().is_err_and(is_refusal), "{what}: {outcome:?}");
            }
            assert_eq!(names(&beside), ["by-another-thread", "empty", "first", "kept"]);
            assert_eq!(fs::read(beside.join("kept")).unwrap(), b"kept");
        }
        Confinement::Off(why) => {
            assert!(!why.reason().is_empty() && !why.remedy().is_empty(), "{why:?}");
            for (what, outcome) in &out_of_it {
                assert!(outcome.is_ok(), "{what}, although the rules are off: {outcome:?}");
            }
        }
    }
}

/// Two names in two directories: what the first version of Landlock cannot allow.
#[test]
fn hard_links_from_one_directory_to_another_are_unpacked() {
    let dir = tempfile::tempdir().unwrap();
    let release = dir.path().join("release");
    let packed = gzip(&Tar::new().file("a/f", b"one").hard("b/c/g", "a/f").hard("h", "b/c/g").end());
    unpack_as_recorded(&packed, &release, SMALL).unwrap();
    let inode = |path: &str| fs::metadata(release.join(path)).unwrap().ino();
    assert_eq!((inode("b/c/g"), inode("h")), (inode("a/f"), inode("a/f")));
    assert_eq!(fs::read(release.join("h")).unwrap(), b"one");
}

/// A writer has the directory open, so neither the plan nor the opening without links can notice.
#[test]
fn a_writer_does_not_follow_a_directory_that_is_moved_out() {
    let dir = tempfile::tempdir().unwrap();
    let (release, away) = (dir.path().join("release"), dir.path().join("away"));
    let mut random = fastrand::Rng::with_seed(7);
    let noise: Vec<u8> = (0..4 << 20).map(|_| random.u8(..)).collect();
    let packed = gzip(&Tar::new().dir("sub/").file("sub/large", &noise).file("sub/late", b"late").end());
    let moving = {
        let (sub, away) = (release.join("sub"), away.clone());
        OtherThread::doing(move || rename(sub, away).unwrap())
    };
    let control = Control::default();
    let limits = Limits { bytes: 5 << 20, entries: 3 };
    let is_writing = || control.unpacked_bytes() > 0;
    let unpacked = unpack_trying(&packed, &release, limits, &control, is_writing, || moving.work());
    assert!(away.join("large").exists(), "it was moved while the unpack wrote to it");
    match (Confinement::of_this_process(), unpacked) {
        (Confinement::On(_), Err(UnpackError::Write { path, source })) => {
            assert_eq!((path.as_str(), source.kind()), ("\"sub/late\"", io::ErrorKind::PermissionDenied));
            assert!(!away.join("late").exists());
        }
        (Confinement::Off(_), Ok(_)) => assert!(away.join("late").exists()),
        (found, unpacked) => panic!("{found:?}: {unpacked:?}"),
    }
}

/// Tokio's threads that may block serve many tasks. One of them calls [`unpack`], and later starts hooks.
#[test]
fn the_thread_that_calls_an_unpack_keeps_its_rights() {
    let dir = tempfile::tempdir().unwrap();
    let (release, beside) = (dir.path().join("release"), dir.path().join("beside"));
    let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
    let privileges = || {
        let status = fs::read_to_string("/proc/thread-self/status").unwrap();
        status.lines().find(|line| line.starts_with("NoNewPrivs:")).unwrap().to_owned()
    };
    let before = runtime.block_on(runtime.spawn_blocking(privileges)).unwrap();
    let unpacking = runtime.spawn_blocking(move || unpack_as_recorded(&small(), &release, SMALL));
    runtime.block_on(unpacking).unwrap().unwrap();
    let after = runtime.spawn_blocking(move || {
        fs::write(beside, "x").unwrap();
        privileges()
    });
    assert_eq!(runtime.block_on(after).unwrap(), before);
}
