//! The directory of downloaded archives: `<cache>/<app>/<artifact>-<digits of its digest>.tar.gz`, and `….part` while one is
//! partial. The digits keep two archives of one artifact apart: a build may be removed and published again with other bytes.
//!
//! Everything in it can be removed at any time at the cost of another download, so nothing is synced. A partial file
//! is locked (`flock`) by the fetch that writes it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{FlockOperation, flock};

use crate::artifact::name::object_name;
use crate::kind::HasKind;
use crate::protocol::ids::App;
use crate::protocol::record::{ArchiveFormat, Build};

/// The suffix of a partial archive's name.
const PARTIAL: &str = "part";

/// The possible formats of an archive in the cache.
const WHOLE: [ArchiveFormat; 2] = [ArchiveFormat::TarGz, ArchiveFormat::TarZst];

/// The cache directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {} in the cache", path.display())]
pub struct CacheError {
    /// The action, for example "write".
    pub(crate) action: &'static str,
    pub(crate) path: PathBuf,
    pub(crate) source: io::Error,
}

impl HasKind for CacheError {
    fn kind(&self) -> &'static str {
        "cache_error"
    }
}

impl CacheError {
    pub(super) fn new(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self { action, path, source }
    }
}

/// The path of a complete archive.
pub(crate) fn whole_path(cache: &Path, app: &App, build: &Build) -> PathBuf {
    let object = object_name(&build.artifact, build.of(), &build.commit, &build.sha256, build.format);
    cache.join(app.as_str()).join(object.as_str())
}

/// The path of a partial archive.
pub(super) fn part_path(whole: &Path) -> PathBuf {
    let mut path = whole.as_os_str().to_owned();
    path.push(".");
    path.push(PARTIAL);
    path.into()
}

/// The state of an archive in the cache.
#[derive(Debug)]
pub(super) enum Cached {
    /// Another fetch is writing it.
    Busy,
    /// A partial or empty file, locked by this file handle.
    Part(File),
    /// Complete by its size; the digest is not checked here.
    Whole(File),
}

/// Opens an archive of `size_bytes` in the cache; blocking.
pub(super) fn open(whole: &Path, size_bytes: u64) -> Result<Cached, CacheError> {
    let part = part_path(whole);
    if let Some(dir) = whole.parent() {
        fs::create_dir_all(dir).map_err(CacheError::new("create", dir))?;
    }
    loop {
        match File::open(whole) {
            Ok(file) => {
                if file.metadata().map_err(CacheError::new("read the size of", whole))?.len() == size_bytes {
                    // The time of the last use, by which `trim` sorts. An error only affects that order.
                    let _unimportant = file.set_modified(SystemTime::now());
                    return Ok(Cached::Whole(file));
                }
                remove(whole)?;
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(CacheError::new("read", whole)(e)),
        }
        let mut options = OpenOptions::new();
        let opened = options.read(true).write(true).create(true).truncate(false).open(&part);
        let file = opened.map_err(CacheError::new("write", &part))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(Cached::Busy),
            Err(e) => return Err(CacheError::new("lock", &part)(e.into())),
        }
        // Between opening and locking, another fetch may have completed and renamed this file. Then try again.
        let mine = file.metadata().map_err(CacheError::new("read the size of", &part))?;
        match fs::symlink_metadata(&part) {
            Ok(there) if (there.dev(), there.ino()) == (mine.dev(), mine.ino()) => {}
            _ => continue,
        }
        // Too long for this build, so the bytes are those of another one.
        if mine.len() > size_bytes {
            file.set_len(0).map_err(CacheError::new("empty", &part))?;
        }
        return Ok(Cached::Part(file));
    }
}

/// Renames a completed partial archive to its final name; blocking.
pub(super) fn complete(whole: &Path) -> Result<(), CacheError> {
    rustix::fs::rename(part_path(whole), whole).map_err(|e| CacheError::new("rename to", whole)(e.into()))
}

/// Removes a file, if it exists.
pub(super) fn remove(path: &Path) -> Result<(), CacheError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(CacheError::new("remove", path)(e)),
        _ => Ok(()),
    }
}

/// The result of [`trim`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Trimmed {
    /// Removed archives, including partial ones.
    pub(crate) removed_files: u64,
    pub(crate) removed_bytes: u64,
    /// The total size of the remaining archives. It exceeds the budget only because of `keep` and running downloads.
    pub(crate) left_bytes: u64,
}

struct Candidate {
    path: PathBuf,
    size_bytes: u64,
    used: SystemTime,
    is_kept: bool,
}

/// Removes archives, least recently used first, until the rest is within the budget; blocking.
///
/// Keeps the archives whose [`whole_path`] is in `keep`, archives that a fetch is writing, and other files. Removing an archive that is being read is
/// harmless, because an open file stays readable.
///
/// # Errors
///
/// [`CacheError`] for the first file or directory that cannot be read or removed. A missing cache counts as empty.
pub(crate) fn trim(cache: &Path, budget_bytes: u64, keep: &[PathBuf]) -> Result<Trimmed, CacheError> {
    let mut candidates = Vec::new();
    for app_dir in list(cache)? {
        if !app_dir.is_dir() {
            continue;
        }
        for path in list(&app_dir)? {
            candidates.extend(candidate(path, keep)?);
        }
    }
    candidates.sort_by(|a, b| a.used.cmp(&b.used).then_with(|| a.path.cmp(&b.path)));
    let mut trimmed = Trimmed { left_bytes: candidates.iter().map(|c| c.size_bytes).sum(), ..Trimmed::default() };
    for candidate in candidates.iter().filter(|c| !c.is_kept) {
        if trimmed.left_bytes <= budget_bytes {
            break;
        }
        if is_locked(&candidate.path) {
            continue;
        }
        remove(&candidate.path)?;
        trimmed.removed_files += 1;
        trimmed.removed_bytes += candidate.size_bytes;
        trimmed.left_bytes -= candidate.size_bytes;
    }
    Ok(trimmed)
}

fn list(dir: &Path) -> Result<Vec<PathBuf>, CacheError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(CacheError::new("read", dir)(e)),
    };
    let paths: io::Result<Vec<PathBuf>> = entries.map(|entry| entry.map(|e| e.path())).collect();
    paths.map_err(CacheError::new("read", dir))
}

fn candidate(path: PathBuf, keep: &[PathBuf]) -> Result<Option<Candidate>, CacheError> {
    if !path.file_name().and_then(|name| name.to_str()).is_some_and(is_archive) {
        return Ok(None);
    }
    let is_kept = keep.iter().any(|whole| path == *whole || path == part_path(whole));
    let metadata = match fs::symlink_metadata(&path) {
        Ok(metadata) if metadata.is_file() => metadata,
        Ok(_) => return Ok(None),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(CacheError::new("look at", &path)(e)),
    };
    let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    Ok(Some(Candidate { size_bytes: metadata.len(), used, is_kept, path }))
}

/// Whether a file in the cache is an archive, whole or partial.
fn is_archive(name: &str) -> bool {
    let name = name.strip_suffix(PARTIAL).and_then(|name| name.strip_suffix('.')).unwrap_or(name);
    WHOLE.iter().any(|format| name.strip_suffix(format.extension()).is_some_and(|stem| stem.ends_with('.')))
}

/// Whether a fetch is writing this partial archive.
fn is_locked(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == PARTIAL)
        && File::open(path).is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockShared).is_err())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_least_recently_used_archives_go_first_and_kept_ones_stay() {
        let cache = tempfile::tempdir().unwrap();
        let dir = cache.path().join("shop");
        fs::create_dir(&dir).unwrap();
        let names = ["a-00000001.tar.gz", "a-00000002.tar.zst", "a-00000003.tar.gz.part", "a-00000004.tar.gz", "notes"];
        for (age, name) in names.iter().enumerate() {
            fs::write(dir.join(name), [0; 10]).unwrap();
            let used = SystemTime::UNIX_EPOCH + Duration::from_secs(age as u64);
            File::options().write(true).open(dir.join(name)).unwrap().set_modified(used).unwrap();
        }
        let keep = [dir.join(names[0])];
        let trimmed = trim(cache.path(), 20, &keep).unwrap();
        assert_eq!(trimmed, Trimmed { removed_files: 2, removed_bytes: 20, left_bytes: 20 });
        let left: Vec<bool> = names.iter().map(|name| dir.join(name).exists()).collect();
        assert_eq!(left, [true, false, false, true, true]);
    }

    #[test]
    fn archives_that_are_being_written_are_not_removed() {
        let cache = tempfile::tempdir().unwrap();
        let whole = cache.path().join("shop").join("a-00000001.tar.gz");
        let Cached::Part(file) = open(&whole, 100).unwrap() else { panic!("an empty cache is not empty") };
        file.set_len(50).unwrap();
        assert!(matches!(open(&whole, 100).unwrap(), Cached::Busy));
        assert_eq!(trim(cache.path(), 0, &[]).unwrap().removed_files, 0);
        drop(file);
        assert_eq!(trim(cache.path(), 0, &[]).unwrap().removed_files, 1);
    }

    #[test]
    fn two_archives_of_one_artifact_are_two_files() {
        let (cache, app) = (Path::new("/cache"), "shop".parse().unwrap());
        let one = Build::sample("a-00000001");
        let two = Build { sha256: "1".repeat(64).parse().unwrap(), ..one.clone() };
        let path = whole_path(cache, &app, &one);
        assert_eq!(path, Path::new("/cache/shop/a-00000001-0000000000000000.tar.gz"));
        assert_ne!(path, whole_path(cache, &app, &two));
        let named = Build { object: Some("b".parse().unwrap()), ..one };
        assert_eq!(path, whole_path(cache, &app, &named), "the record cannot choose a file of the cache");
    }

    #[test]
    fn a_missing_cache_counts_as_empty() {
        assert_eq!(trim(Path::new("/nonexistent/cache"), 0, &[]).unwrap(), Trimmed::default());
    }
}
