//! Checks whether a release that lay on the disk is still as it was made, before `current` is pointed to it.
//!
//! ```text
//! unpack ─► list of files     prepare hook ─► what it changed     seal ─► since: now     check: disk ≠ list, later than `since`?
//!                             application  ─► what it changed     left ─► since: now
//! ```
//!
//! [`crate::plan::verify`] decides which differences count. `.cutover/files/<name>.since` holds the moment: its own time, so that
//! both times come from one clock, also on NFS. It also says which run of the release it is about. While a release runs,
//! and after a run whose end was not noted (the agent was killed), its application may have changed anything: differences are
//! only told. Releases that older versions unpacked have no list, and are not checked.
//!
//! The cost of [`Verify::Quick`] is one `lstat` for each entry of the archive, and an `open` for each directory: about 0.1 s for
//! 12,000 files that the kernel knows. [`Verify::Full`] reads every file. What the agent's user cannot read is left out.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::io::Errno;
use sha2::{Digest, Sha256};

use crate::plan::retention::RunResult;
use crate::plan::unpack::split;
use crate::plan::verify::{
    Difference, Differences, FileTime, Found, Listed, Verify, When, content_counts, difference, is_rewritten,
};
use crate::protocol::ids::{self, ReleaseName};

use super::control::Control;
use super::files;
use super::link::within;
use super::list::{self, ListError, ListWriter};
use super::look::{self, Seen, look};
use super::record::ReleaseRecord;
use super::site::Site;

/// The result of [`Site::check`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Checked {
    /// As it was made, or as its application left it.
    AsMade,
    /// It was changed after the node promised to run it, or left it.
    Changed {
        /// What counts.
        differences: Differences,
        /// How it ran before; none if it never ran.
        ran: Option<RunResult>,
    },
    /// It ran since, so its application may have changed it.
    MayBeOwn(Differences),
    /// It cannot be checked: it has no list, or is current.
    Unchecked,
}

/// Since when nobody has a reason to change a release.
struct Since {
    time: FileTime,
    /// The last run before; 0 if it never ran.
    run: u64,
}

impl Site {
    /// Compares a complete release with the list of its files, as the settings say.
    ///
    /// # Errors
    ///
    /// The disk cannot be read, or the caller cancels.
    pub fn check(&self, name: &ReleaseName, control: &Control) -> io::Result<Checked> {
        let depth = match self.verify() {
            Verify::Full => Depth::Content,
            Verify::Quick => Depth::Sizes,
        };
        self.compare(name, depth, control)
    }

    /// As [`Site::check`], without reading the content of files.
    ///
    /// # Errors
    ///
    /// The disk cannot be read.
    pub(crate) fn check_quickly(&self, name: &ReleaseName) -> io::Result<Checked> {
        self.compare(name, Depth::Sizes, &Control::default())
    }

    fn compare(&self, name: &ReleaseName, depth: Depth, control: &Control) -> io::Result<Checked> {
        let Some(record) = self.record(name)?.filter(|record| record.complete) else { return Ok(Checked::Unchecked) };
        if self.is_current(name)? {
            return Ok(Checked::Unchecked);
        }
        let since = self.since(name)?;
        // Without it nothing is known about the time, and every difference is told.
        let when = since.as_ref().map_or(When::Ever, |since| When::After(since.time));
        let Some(walk) = self.walk(&record, when, depth, control)? else { return Ok(Checked::Unchecked) };
        if depth == Depth::Content && walk.lacks_digests {
            tracing::info!(release = %name, "release {name} was unpacked without digests, so only sizes and modes are checked");
        }
        let mut differences = Differences::default();
        for (path, Differing { difference, .. }) in &walk.differing {
            differences.add(path, difference);
        }
        let is_about_last_run = since.is_some_and(|since| since.run == last_run(&record));
        Ok(if differences.is_empty() {
            Checked::AsMade
        } else if is_about_last_run {
            Checked::Changed { differences, ran: record.last_run.map(|run| run.outcome) }
        } else {
            Checked::MayBeOwn(differences)
        })
    }

    /// Compares a release with the list of its files. None if the list cannot be read.
    fn walk<'a>(
        &self,
        record: &ReleaseRecord,
        when: When,
        depth: Depth,
        control: &'a Control,
    ) -> io::Result<Option<Walk<'a>>> {
        let name = &record.release;
        let mut walk = Walk {
            root: files::open_dir(&self.release_path(name))?,
            open: Vec::new(),
            expected: BTreeMap::new(),
            when,
            depth,
            control,
            lacks_digests: false,
            differing: BTreeMap::new(),
        };
        // An unfinished release was unpacked anew: notes under its name are about a former one.
        let changed = if record.complete {
            list::read(&self.changed_path(record), |path, listed| {
                walk.expected.insert(path.to_owned(), listed.clone());
                Ok::<_, ListError>(())
            })
        } else {
            Ok(())
        };
        let listed = list::read(&self.list_path(&record.sha256), |path, listed| match path {
            b"REVISION" => Ok(()),
            path if is_linked(record, path) => Ok(()),
            path => walk.compare(path, listed).map_err(Stopped::Io),
        });
        let unreadable = match (listed, changed) {
            (Err(Stopped::Io(error)), _) => return Err(error),
            (Err(Stopped::List(error)), _) => error,
            (Ok(()), Err(ListError(error))) if error.kind() != io::ErrorKind::NotFound => error,
            (Ok(()), _) => {
                walk.compare(b"REVISION", &revision(record))?;
                return Ok(Some(walk));
            }
        };
        if unreadable.kind() != io::ErrorKind::NotFound {
            tracing::warn!(release = %name, error = %unreadable, "release {name} is not checked, because a list of its files cannot be read: {unreadable}");
        }
        Ok(None)
    }

    /// Notes what differs for a good reason: before the release is sealed, everything that the prepare hook did; after it was left,
    /// what its application changed until then.
    ///
    /// # Errors
    ///
    /// The disk cannot be read or written.
    pub fn note_changes(&self, name: &ReleaseName) -> io::Result<()> {
        let Some(record) = self.record(name)? else { return Ok(()) };
        let when = if record.complete {
            match self.since(name)? {
                Some(since) if since.run == last_run(&record) => When::UpTo(since.time),
                Some(_) | None => return Ok(()),
            }
        } else {
            When::Ever
        };
        let control = Control::default();
        let Some(walk) = self.walk(&record, when, Depth::Times, &control)? else { return Ok(()) };
        let written = self.scratch_dir().join(files::random_name("changed"));
        let list = ListWriter::create(&written, Verify::Quick)?;
        for (path, Differing { found, .. }) in &walk.differing {
            list.add(path, &found.expected());
        }
        let noted = list.finish().and_then(|()| {
            let _writing = self.write_lock();
            files::rename(&written, &self.changed_path(&record))
        });
        if noted.is_err() {
            self.remove(&written);
        }
        noted
    }

    /// As [`Site::note_changes`], for each release that was left since the last time.
    pub(super) fn note_all_changes(&self) -> io::Result<()> {
        for ReleaseRecord { release, .. } in self.records()?.iter().filter(|record| self.is_unnoted(record)) {
            if self.is_current(release)? {
                continue;
            }
            if let Err(error) = self.note_changes(release) {
                tracing::warn!(%release, %error, "cannot note what changed in release {release} while it ran: {error}");
            }
        }
        Ok(())
    }

    /// Whether a release has run, and what changed meanwhile was not noted.
    fn is_unnoted(&self, record: &ReleaseRecord) -> bool {
        record.complete
            && record.last_run.is_some()
            && self.changed_path(record).symlink_metadata().is_err()
            && files::is_real_dir(&self.release_path(&record.release)).unwrap_or(false)
    }

    /// Notes that from now on nobody has a reason to change a release: it is prepared, or was left for another one, or was checked.
    ///
    /// # Errors
    ///
    /// The note cannot be written. A later check then finds no reason to refuse the release.
    pub fn mark_unused(&self, name: &ReleaseName) -> io::Result<()> {
        let _writing = self.write_lock();
        match self.record(name)? {
            // What runs may change.
            Some(record) if !self.is_current(name)? => self.write_since(&record),
            Some(_) | None => Ok(()),
        }
    }

    /// As [`Site::mark_unused`]. The caller holds the writing lock.
    pub(super) fn write_since(&self, record: &ReleaseRecord) -> io::Result<()> {
        fs::write(self.since_path(&record.release), format!("{}\n", last_run(record)))
    }

    fn since(&self, name: &ReleaseName) -> io::Result<Option<Since>> {
        let path = self.since_path(name);
        let Some(text) = files::read_if_there(&path)? else { return Ok(None) };
        let run = str::from_utf8(&text).ok().and_then(|text| text.trim_end().parse().ok());
        let (Some(dir), Some(file)) = (path.parent(), path.file_name()) else { return Ok(None) };
        let seen = look(files::open_dir(dir)?, file.as_encoded_bytes())?;
        Ok(match (run, seen.found) {
            (Some(run), Found::File { written: time, .. }) => Some(Since { time, run }),
            _ => None,
        })
    }

    /// The list of the archive with this digest.
    pub(super) fn list_path(&self, sha256: &ids::Sha256) -> PathBuf {
        self.lists_dir().join(sha256.as_str())
    }

    fn since_path(&self, name: &ReleaseName) -> PathBuf {
        self.lists_dir().join(format!("{name}.since"))
    }

    /// What differs in a release for a good reason.
    fn changed_path(&self, record: &ReleaseRecord) -> PathBuf {
        self.lists_dir().join(format!("{}.{}.changed", record.release, last_run(record)))
    }

    /// What must be as durable as a release for its checks, the directory last.
    pub(super) fn notes_for_checks(&self, record: &ReleaseRecord) -> [PathBuf; 3] {
        [self.changed_path(record), self.since_path(&record.release), self.lists_dir()]
    }

    /// Removes the lists and notes of builds and releases that are gone.
    pub(super) fn remove_old_lists(&self) -> io::Result<()> {
        let _writing = self.write_lock();
        let (records, staged) = (self.records()?, self.staged()?);
        let is_used = |file: &str| match file.split_once('.') {
            Some((name, "since")) => records.iter().any(|record| record.release.as_str() == name),
            Some(_) => records.iter().any(|record| self.changed_path(record).ends_with(file)),
            None => records
                .iter()
                .map(|it| &it.sha256)
                .chain(staged.iter().map(|it| &it.sha256))
                .any(|it| it.as_str() == file),
        };
        let entries = fs::read_dir(self.lists_dir())?.collect::<io::Result<Vec<_>>>()?;
        self.checking_again(&self.lists_dir(), || {
            for entry in entries.iter().filter(|it| it.file_name().to_str().is_none_or(|file| !is_used(file))) {
                self.remove_file(&entry.path());
            }
        });
        Ok(())
    }
}

fn last_run(record: &ReleaseRecord) -> u64 {
    record.last_run.map_or(0, |run| run.sequence)
}

/// The file that Cutover writes into each release.
fn revision(record: &ReleaseRecord) -> Listed {
    let text = format!("{}\n", record.commit);
    let bytes = text.len().try_into().unwrap_or(u64::MAX);
    Listed::File { mode: 0o644, bytes, written: FileTime::default(), sha256: Some(Sha256::digest(text).into()) }
}

/// Why reading the list ended early.
enum Stopped {
    Io(io::Error),
    List(io::Error),
}

impl From<ListError> for Stopped {
    fn from(ListError(error): ListError) -> Self {
        Self::List(error)
    }
}

/// A comparison under way.
struct Walk<'a> {
    root: OwnedFd,
    /// The directories on the path to the last entry.
    open: Vec<Level>,
    /// What differs from the list for a good reason.
    expected: BTreeMap<Vec<u8>, Listed>,
    when: When,
    depth: Depth,
    control: &'a Control,
    /// Whether the list has none for some file.
    lacks_digests: bool,
    /// By path. If an archive repeats a name, its last entry counts.
    differing: BTreeMap<Vec<u8>, Differing>,
}

/// How closely files of the same size are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Depth {
    /// By their digests.
    Content,
    /// Not at all.
    Sizes,
    /// By the times at which they were written.
    Times,
}

struct Differing {
    difference: Difference,
    found: Found,
}

struct Level {
    name: Vec<u8>,
    at: At,
}

/// What is at the place of a directory.
enum At {
    Directory(OwnedFd),
    /// Not a directory, since then.
    Gone(FileTime),
    Unreadable,
}

impl Walk<'_> {
    fn compare(&mut self, path: &[u8], listed: &Listed) -> io::Result<()> {
        go_on(self.control)?;
        self.lacks_digests |= matches!(listed, Listed::File { sha256: None, .. });
        let expected = self.expected.get(path).cloned();
        let differing = self.differing(path, expected.as_ref().unwrap_or(listed));
        let differing = match differing {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => None,
            differing => differing?,
        };
        match differing {
            Some(differing) => drop(self.differing.insert(path.to_owned(), differing)),
            None => drop(self.differing.remove(path)),
        }
        Ok(())
    }

    fn differing(&mut self, path: &[u8], listed: &Listed) -> io::Result<Option<Differing>> {
        let (when, depth, control) = (self.when, self.depth, self.control);
        let name = split(path).name;
        self.enter(split(path).parent)?;
        let (dir, Seen { found, changed }) = match self.open.last().map(|level| &level.at) {
            None => (&self.root, look(&self.root, name)?),
            Some(At::Directory(dir)) => (dir, look(dir, name)?),
            Some(At::Gone(changed)) => (&self.root, Seen { found: Found::Missing, changed: *changed }),
            Some(At::Unreadable) => return Ok(None),
        };
        if let Some(difference) = difference(listed, &found) {
            return Ok(when.includes(changed).then_some(Differing { difference, found }));
        }
        let (Listed::File { sha256: Some(sha256), written: listed, .. }, Found::File { written, .. }) =
            (listed, &found)
        else {
            return Ok(None);
        };
        let is_other = match depth {
            Depth::Content if content_counts(*listed, *written, changed, when) => {
                match look::digest(dir, name, || go_on(control)) {
                    Err(error) if is_rotten(&error) => true,
                    digest => digest? != *sha256,
                }
            }
            Depth::Times => is_rewritten(*listed, *written) && when.includes(changed),
            Depth::Content | Depth::Sizes => false,
        };
        Ok(is_other.then_some(Differing { difference: Difference::Content, found }))
    }

    /// Opens the directories at and above `path`, and closes the others.
    fn enter(&mut self, path: &[u8]) -> io::Result<()> {
        let parts = || path.split(|byte| *byte == b'/').filter(|part| !part.is_empty());
        let shared = self.open.iter().zip(parts()).take_while(|(open, part)| open.name == *part).count();
        self.open.truncate(shared);
        for part in parts().skip(shared) {
            let at = match self.open.last().map(|level| &level.at) {
                None => descend(&self.root, part)?,
                Some(At::Directory(dir)) => descend(dir, part)?,
                Some(At::Gone(changed)) => At::Gone(*changed),
                Some(At::Unreadable) => At::Unreadable,
            };
            self.open.push(Level { name: part.to_owned(), at });
        }
        Ok(())
    }
}

/// Whether Cutover linked the path, or one above it, to `shared/`: then the archive's file is not the release's any more.
fn is_linked(record: &ReleaseRecord, path: &[u8]) -> bool {
    let path = String::from_utf8_lossy(path);
    record.linked.iter().flatten().any(|linked| within(&path, linked))
}

/// Whether the disk has lost the bytes: filesystems with checksums return these errors for them.
fn is_rotten(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::IO | Errno::UCLEAN | Errno::BADMSG))
}

fn go_on(control: &Control) -> io::Result<()> {
    if control.is_canceled() { Err(io::Error::other("the check was stopped")) } else { Ok(()) }
}

fn descend(dir: &OwnedFd, name: &[u8]) -> io::Result<At> {
    match files::open_dir_at(dir, name).map_err(io::Error::from) {
        Ok(opened) => Ok(At::Directory(opened)),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(At::Unreadable),
        Err(error) => match look(dir, name)? {
            // It is there, so something else is wrong.
            Seen { found: Found::Directory { .. }, .. } => Err(error),
            Seen { changed, .. } => Ok(At::Gone(changed)),
        },
    }
}
