//! The files of the cache: `<cache>/<app>/<artifact>-<digits of its digest>.tar.gz`, and `….part` while one is partial. The
//! digits keep two archives of one artifact apart: a build may be removed and published again with other bytes.
//!
//! Everything here can be removed at any time at the cost of another download, so nothing is synced. A partial file is locked
//! (`flock`) by the fetch that writes it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{FlockOperation, flock};

use super::parts::Parts;
use crate::artifact::name::object_name;
use crate::kind::HasKind;
use crate::protocol::ids::App;
use crate::protocol::record::{ArchiveFormat, Build};

/// The suffix of a partial archive's name.
const PARTIAL: &str = "part";

/// The unit of the blocks of a file: inode(7).
const BLOCK_BYTES: u64 = 512;

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
    pub(in crate::artifact) fn new(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self { action, path, source }
    }

    /// Whether the disk is full.
    pub(in crate::artifact) fn is_full(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

/// The path of a complete archive.
pub(super) fn whole_path(cache: &Path, app: &App, build: &Build) -> PathBuf {
    let object = object_name(&build.artifact, build.of(), &build.commit, &build.sha256, build.format);
    cache.join(app.as_str()).join(object.as_str())
}

/// The path of a partial archive.
pub(in crate::artifact) fn part_path(whole: &Path) -> PathBuf {
    let mut path = whole.as_os_str().to_owned();
    path.push(".");
    path.push(PARTIAL);
    path.into()
}

/// The state of an archive in the cache.
#[derive(Debug)]
pub(in crate::artifact) enum Cached {
    /// Another fetch is writing it.
    Busy,
    /// A partial or empty file, locked by this file handle.
    Part(File),
    /// Complete by its size; the digest is not checked here.
    Whole(File),
}

/// Creates a directory of the cache with its parents, if it does not exist.
///
/// [`fs::create_dir_all`] hides the reason when it cannot read what is there: it says that the directory exists.
pub(super) fn make_dir(dir: &Path) -> Result<(), CacheError> {
    let made = fs::create_dir_all(dir).or_else(|error| match error.kind() {
        io::ErrorKind::AlreadyExists if fs::metadata(dir)?.is_dir() => Ok(()),
        _ => Err(error),
    });
    made.map_err(CacheError::new("create", dir))
}

/// Opens an archive of `size_bytes` in the cache; blocking.
pub(in crate::artifact) fn open(whole: &Path, size_bytes: u64) -> Result<Cached, CacheError> {
    let part = part_path(whole);
    if let Some(dir) = whole.parent() {
        make_dir(dir)?;
    }
    loop {
        match File::open(whole) {
            Ok(file) => {
                if file.metadata().map_err(CacheError::new("read the size of", whole))?.len() == size_bytes {
                    // The time of the last use, by which [`archives`] sorts. An error only affects that order.
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
        return Ok(Cached::Part(file));
    }
}

/// Renames a completed partial archive to its final name; blocking.
pub(in crate::artifact) fn complete(whole: &Path) -> Result<(), CacheError> {
    rustix::fs::rename(part_path(whole), whole).map_err(|e| CacheError::new("rename to", whole)(e.into()))
}

/// How many bytes of an archive of `size_bytes` are in the cache. A file that a fetch would empty or remove counts as none.
pub(super) fn present_bytes(whole: &Path, size_bytes: u64) -> u64 {
    let length = |path: &Path| fs::symlink_metadata(path).ok().filter(fs::Metadata::is_file).map(|meta| meta.len());
    if length(whole) == Some(size_bytes) {
        return size_bytes;
    }
    let part = part_path(whole);
    let read = || Parts::read(&File::open(&part).ok()?, size_bytes, size_bytes).ok()?;
    length(&part).and_then(|_| read()).map_or(0, |parts| parts.present_bytes())
}

/// The number of the filesystem that a path is on.
pub(super) fn device(path: &Path) -> io::Result<u64> {
    Ok(fs::metadata(path)?.dev())
}

/// Removes a file, if it exists.
pub(in crate::artifact) fn remove(path: &Path) -> Result<(), CacheError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(CacheError::new("remove", path)(e)),
        _ => Ok(()),
    }
}

/// An archive in the cache, whole or partial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Archive {
    pub(super) path: PathBuf,
    /// What it takes up. Of a partial archive, parts may be missing before those that are there.
    pub(super) size_bytes: u64,
    /// The length of its file, with what is missing between its parts.
    pub(super) length_bytes: u64,
    /// When a fetch last opened or wrote it.
    used: SystemTime,
}

impl Archive {
    /// The path of the complete archive.
    pub(super) fn whole(&self) -> PathBuf {
        if self.is_partial() { self.path.with_extension("") } else { self.path.clone() }
    }

    pub(super) fn is_partial(&self) -> bool {
        self.path.extension().is_some_and(|extension| extension == PARTIAL)
    }
}

/// All archives, least recently used first; blocking. A missing cache is empty. Other files are left out.
pub(super) fn archives(cache: &Path) -> Result<Vec<Archive>, CacheError> {
    let mut found = Vec::new();
    for app_dir in list(cache)? {
        if !fs::symlink_metadata(&app_dir).is_ok_and(|meta| meta.is_dir()) {
            continue;
        }
        for path in list(&app_dir)? {
            found.extend(archive(path)?);
        }
    }
    found.sort_by(|a, b| a.used.cmp(&b.used).then_with(|| a.path.cmp(&b.path)));
    Ok(found)
}

/// Whether a fetch is writing this partial archive, perhaps of another process.
pub(super) fn is_locked(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockShared).is_err())
}

/// Removes a partial archive, unless a fetch is writing it.
pub(super) fn remove_idle(part: &Path) -> Result<(), CacheError> {
    let file = match File::open(part) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(CacheError::new("read", part)(e)),
    };
    // Removed under the lock: a fetch that opens the file meanwhile sees that it is gone, and makes a new one.
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => remove(part),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(()),
        Err(e) => Err(CacheError::new("lock", part)(e.into())),
    }
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

fn archive(path: PathBuf) -> Result<Option<Archive>, CacheError> {
    if !path.file_name().and_then(|name| name.to_str()).is_some_and(is_archive) {
        return Ok(None);
    }
    let metadata = match fs::symlink_metadata(&path) {
        Ok(metadata) if metadata.is_file() => metadata,
        Ok(_) => return Ok(None),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(CacheError::new("look at", &path)(e)),
    };
    let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    let length_bytes = metadata.len();
    let mut archive = Archive { path, size_bytes: length_bytes, length_bytes, used };
    if archive.is_partial() {
        archive.size_bytes = length_bytes.min(metadata.blocks().saturating_mul(BLOCK_BYTES));
    }
    Ok(Some(archive))
}

/// Whether a file in the cache is an archive, whole or partial.
fn is_archive(name: &str) -> bool {
    let name = name.strip_suffix(PARTIAL).and_then(|name| name.strip_suffix('.')).unwrap_or(name);
    WHOLE.iter().any(|format| name.strip_suffix(format.extension()).is_some_and(|stem| stem.ends_with('.')))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_directory_that_cannot_be_read_is_refused_with_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let circle = dir.path().join("circle");
        std::os::unix::fs::symlink(&circle, &circle).unwrap();
        let reason = make_dir(&circle).unwrap_err().source.to_string();
        assert!(reason.contains("symbolic links"), "{reason}");
        make_dir(&dir.path().join("a/b")).unwrap();
        make_dir(&dir.path().join("a/b")).unwrap();
    }

    #[test]
    fn archives_are_listed_by_their_last_use_and_other_files_are_left_out() {
        let cache = tempfile::tempdir().unwrap();
        let dir = cache.path().join("shop");
        fs::create_dir(&dir).unwrap();
        fs::write(cache.path().join("a-00000005.tar.gz"), "not in the directory of an app").unwrap();
        let names = ["a-00000002.tar.gz", "a-00000001.tar.zst", "a-00000003.tar.gz.part", "notes", "part"];
        for (age, name) in names.iter().enumerate() {
            fs::write(dir.join(name), [0; 10]).unwrap();
            let used = SystemTime::UNIX_EPOCH + Duration::from_secs(age as u64);
            File::options().write(true).open(dir.join(name)).unwrap().set_modified(used).unwrap();
        }
        let found = archives(cache.path()).unwrap();
        let paths: Vec<_> = found.iter().map(|archive| archive.path.clone()).collect();
        assert_eq!(paths, names[..3].iter().map(|name| dir.join(name)).collect::<Vec<_>>());
        assert_eq!(found[2].whole(), dir.join("a-00000003.tar.gz"));
        assert_eq!(archives(Path::new("/nonexistent/cache")).unwrap(), []);
    }

    #[test]
    fn a_partial_archive_that_is_being_written_is_not_removed() {
        let cache = tempfile::tempdir().unwrap();
        let whole = cache.path().join("shop").join("a-00000001.tar.gz");
        let Cached::Part(file) = open(&whole, 100).unwrap() else { panic!("an empty cache is not empty") };
        assert!(matches!(open(&whole, 100).unwrap(), Cached::Busy));
        let part = part_path(&whole);
        assert!(is_locked(&part));
        remove_idle(&part).unwrap();
        assert!(part.exists());
        drop(file);
        assert!(!is_locked(&part));
        remove_idle(&part).unwrap();
        assert!(!part.exists());
    }

    #[test]
    fn a_partial_archive_with_gaps_counts_with_what_it_has() {
        const SIZE: u64 = 32 << 20;
        let cache = tempfile::tempdir().unwrap();
        let whole = cache.path().join("shop").join("a-00000001.tar.gz");
        let Cached::Part(file) = open(&whole, SIZE).unwrap() else { panic!("an empty cache is not empty") };
        let mut parts = Parts::with_beginning(SIZE, 8 << 20, 0);
        file.write_all_at(&[1; 1000], 24 << 20).unwrap();
        parts.advance(3, 1000);
        parts.record(&file).unwrap();
        assert_eq!((present_bytes(&whole, SIZE), present_bytes(&whole, SIZE - 1)), (1000, 0));
        let found = archives(cache.path()).unwrap();
        assert!(found[0].size_bytes < 1 << 20, "removing it would not free {} bytes", found[0].size_bytes);
        assert!(found[0].length_bytes > SIZE, "another process is downloading the whole archive");
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
}
