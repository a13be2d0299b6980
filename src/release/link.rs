//! Shared paths: directories and files that are kept across releases, and linked into each release.
//!
//! [`Links::new`] checks the paths of the settings. [`Site`] checks `shared/` before a release is placed, and replaces each
//! path in the release by a relative link to `shared/`. A missing shared directory is created, with what the build has at its path;
//! a missing shared file never, because an empty `.env` would start an application with wrong settings. A rollback checks and
//! makes the same links.
//!
//! The tree of a release comes from an archive, so no function here follows a link inside of it: directories are opened one
//! component at a time, with `O_NOFOLLOW`.

use std::collections::BTreeSet;
use std::ffi::{CString, OsStr};
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, fchmod, mkdirat, renameat, statat, symlinkat, unlinkat};
use rustix::io::Errno;

use crate::kind::HasKind;
use crate::protocol::ids::{ArtifactName, ReleaseName};
use crate::protocol::record::Step;

use super::durable;
use super::fault::StageFault;
use super::files;
use super::record::ReleaseRecord;
use super::shared_copy;
use super::site::Site;

/// The longest shared path, in bytes. A link to it, with one `../` for each component, stays far below `PATH_MAX` (4096).
const MAX_PATH_BYTES: usize = 1024;

/// A shared path that cannot be linked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("linked path {path:?} {problem}")]
pub struct InvalidLink {
    /// The path as configured.
    pub(crate) path: String,
    /// The rest of the sentence after the path, for example "is absolute".
    pub(crate) problem: &'static str,
}

impl HasKind for InvalidLink {
    fn kind(&self) -> &'static str {
        "invalid_link"
    }
}

/// The checked shared paths of a group: relative, inside the release, and not nested.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Links {
    dirs: Vec<String>,
    files: Vec<String>,
}

impl Links {
    /// Checks `linked_dirs` and `linked_files`.
    ///
    /// # Errors
    ///
    /// [`InvalidLink`] for the first path that is absolute, contains `..` or a control character, is repeated, is inside
    /// another one, or is `REVISION`, which Cutover writes.
    pub fn new(dirs: &[String], files: &[String]) -> Result<Self, InvalidLink> {
        let mut seen: Vec<String> = Vec::new();
        let mut clean = |paths: &[String]| -> Result<Vec<String>, InvalidLink> {
            let mut cleaned = Vec::new();
            for path in paths {
                let invalid = |problem| InvalidLink { path: path.clone(), problem };
                let name = clean_path(path).map_err(invalid)?;
                if seen.iter().any(|other| within(&name, other) || within(other, &name)) {
                    return Err(invalid("is repeated, or inside another linked path"));
                }
                seen.push(name.clone());
                cleaned.push(name);
            }
            Ok(cleaned)
        };
        Ok(Self { dirs: clean(dirs)?, files: clean(files)? })
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &str> {
        self.dirs.iter().chain(&self.files).map(String::as_str)
    }
}

/// Whether `inner` is `outer`, or inside of it.
pub(super) fn within(inner: &str, outer: &str) -> bool {
    inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn clean_path(path: &str) -> Result<String, &'static str> {
    if path.len() > MAX_PATH_BYTES {
        return Err("is longer than 1024 bytes");
    }
    if path.starts_with('/') {
        return Err("is absolute; write it relative to the release, for example \"tmp/pids\"");
    }
    if path.chars().any(char::is_control) {
        return Err("contains a control character");
    }
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.is_empty() {
        return Err("is empty");
    }
    if parts.contains(&"..") {
        return Err("leads out of the release");
    }
    if parts.iter().any(|part| part.len() > 255) {
        return Err("has a component longer than 255 bytes");
    }
    if parts == ["REVISION"] {
        return Err("is written by Cutover");
    }
    Ok(parts.join("/"))
}

/// What becomes of a release's own file or directory at the path of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Own {
    /// It is removed: it comes from the archive, and nothing has run in the release yet.
    Remove,
    /// It is kept beside the link: an application may have written there.
    SetAside,
}

/// What the link of a directory changes about a build's own files, in one sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LinkEffect {
    /// They are copied to `shared/`.
    Fills(String),
    /// They cannot be seen in the release.
    Hides(String),
}

impl Site {
    /// Fails if a shared file is missing, and creates missing shared directories, with what `tree` has at their paths. Changes
    /// no release.
    pub(super) fn check_shared(&self, links: &Links, tree: &Path) -> Result<(), StageFault> {
        if let Some(fault) = links.files.iter().find_map(|file| self.shared_file_fault(file)) {
            return Err(fault);
        }
        links.dirs.iter().try_for_each(|dir| {
            let path = self.shared_dir().join(dir);
            self.copy_if_missing(tree, dir)?;
            files::make_dirs(&path).map_err(|error| {
                let what = format!(
                    "linked_dirs has {dir:?}, but {} is not a directory and cannot be created; create the directory",
                    path.display()
                );
                StageFault::of(Step::Link, &what, &error)
            })
        })
    }

    /// Copies what `tree` has at `dir` into `shared/`, unless `shared/` has something there.
    fn copy_if_missing(&self, tree: &Path, dir: &str) -> Result<(), StageFault> {
        let path = self.shared_dir().join(dir);
        let shown = path.display();
        let copied = match path.symlink_metadata() {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Err(_) => shared_copy::content(tree, dir)
                .and_then(|content| content.map_or(Ok(None), |content| shared_copy::copy(&content, &path))),
        };
        match copied {
            Ok(Some(count)) => {
                tracing::info!(path = %shown, count, "{shown} did not exist and was filled with what the build has at {dir:?}");
                Ok(())
            }
            Ok(None) => Ok(()),
            Err(error) => {
                let what = format!("linked_dirs has {dir:?}, but its content in the build cannot be copied to {shown}");
                Err(StageFault::of(Step::Link, &what, &error))
            }
        }
    }

    /// The effects that the links of a new release will have. `tree` is the unpacked build.
    #[must_use]
    pub(crate) fn link_effects(&self, tree: &Path, links: &Links) -> Vec<LinkEffect> {
        links.dirs.iter().filter_map(|dir| self.link_effect(tree, dir)).collect()
    }

    /// As [`Site::link_effects`], of a staged build.
    #[must_use]
    pub(crate) fn staged_link_effects(&self, artifact: &ArtifactName, links: &Links) -> Vec<LinkEffect> {
        self.link_effects(&self.staged_path(artifact), links)
    }

    fn link_effect(&self, tree: &Path, dir: &str) -> Option<LinkEffect> {
        // Only a message: an error shows up when the link is made.
        let content = shared_copy::content(tree, dir).ok()??;
        let path = self.shared_dir().join(dir);
        let shown = path.display();
        if path.symlink_metadata().is_err() {
            let fills = format!("{shown} does not exist and will be filled with what the build has at {dir:?}");
            return Some(LinkEffect::Fills(fills));
        }
        let lacks = |name: &CString| path.join(OsStr::from_bytes(name.to_bytes())).symlink_metadata().is_err();
        let hidden: Vec<CString> = shared_copy::names(&content).ok()?.into_iter().filter(lacks).collect();
        let first = hidden.iter().min()?.to_string_lossy();
        let others = match hidden.len() {
            1 => String::new(),
            count => format!(" and {} more", count.saturating_sub(1)),
        };
        let hides = format!(
            "the link to {shown} hides {first:?}{others} of the build's {dir:?}; copy what is needed to {shown} by hand"
        );
        Some(LinkEffect::Hides(hides))
    }

    fn shared_file_fault(&self, file: &str) -> Option<StageFault> {
        let path = self.shared_dir().join(file);
        let problem = match path.metadata() {
            Ok(meta) if !meta.is_dir() => return None,
            Ok(_) => "is a directory; list it in linked_dirs, or replace it by a file".to_owned(),
            Err(error) => format!("cannot be read ({error}); put the file there on this node"),
        };
        let reason = format!("linked_files has {file:?}, but {} {problem}", path.display());
        Some(StageFault::new(Step::Link, &reason))
    }

    /// The shared paths that would prevent a release from being placed. Creates nothing; missing directories are created
    /// together with a release.
    #[must_use]
    pub(crate) fn shared_faults(&self, links: &Links) -> Vec<StageFault> {
        let dir_fault = |dir: &String| {
            let path = self.shared_dir().join(dir);
            let is_in_the_way = path.symlink_metadata().is_ok() && !path.is_dir();
            let what =
                format!("linked_dirs has {dir:?}, but {} is not a directory; create the directory", path.display());
            is_in_the_way.then(|| StageFault::new(Step::Link, &what))
        };
        links
            .dirs
            .iter()
            .filter_map(dir_fault)
            .chain(links.files.iter().filter_map(|f| self.shared_file_fault(f)))
            .collect()
    }

    /// Replaces every linked path of a new release by a link into `shared/`.
    pub(super) fn link_shared(&self, release: &Path, links: &Links) -> Result<(), StageFault> {
        links.all().try_for_each(|path| self.link_one(release, path, Own::Remove))
    }

    /// Checks `shared/` and makes missing links in a complete release, as [`Site::place`] does in a new one: a shared file may be
    /// gone since, and the settings may link more paths. What the release itself has at a path that was not linked when it was made
    /// is renamed to `<path>.not-linked`, because its application may have written there. At the others its prepare hook has
    /// replaced the link, which stays so. The current release is not changed.
    ///
    /// # Errors
    ///
    /// [`Step::Link`] if a shared path cannot be linked, [`Step::Sync`] if the links cannot be made durable.
    pub fn relink(&self, name: &ReleaseName, links: &Links) -> Result<(), StageFault> {
        let _writing = self.write_lock();
        let release = self.release_path(name);
        let failed = |step, error: &io::Error| {
            StageFault::of(step, &format!("the links of {} cannot be checked", release.display()), error)
        };
        let unreadable = |error: io::Error| failed(Step::Link, &error);
        if self.is_current(name).map_err(unreadable)? {
            return Ok(());
        }
        self.check_shared(links, &release)?;
        let Some(mut record) = self.record(name).map_err(unreadable)? else { return Ok(()) };
        let missing: Vec<&str> = links.all().filter(|path| self.lacks_link(&record, path)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        // The record comes first, so that no check takes a link for damage.
        let linked = record.linked.iter().flatten().map(String::as_str).chain(missing.iter().copied());
        let linked: BTreeSet<String> = linked.map(str::to_owned).collect();
        record.linked = Some(linked.into_iter().collect());
        self.write_record(&record).map_err(unreadable)?;
        missing.iter().try_for_each(|path| self.link_one(&release, path, Own::SetAside))?;
        let synced = files::open_dir(&release).and_then(|release| durable::sync_tree(&release, &[]));
        synced.map_err(|error| failed(Step::Sync, &error))
    }

    /// The paths of a complete release where [`Site::relink`] would set aside what the release itself has.
    ///
    /// # Errors
    ///
    /// The record cannot be read.
    pub(crate) fn unlinked(&self, name: &ReleaseName, links: &Links) -> io::Result<Vec<String>> {
        let Some(record) = self.record(name)? else { return Ok(Vec::new()) };
        let release = self.release_path(name);
        let is_own = |path: &&str| self.lacks_link(&record, path) && release.join(path).symlink_metadata().is_ok();
        Ok(links.all().filter(is_own).map(str::to_owned).collect())
    }

    /// Whether a link is to be made in a complete release: nothing is there, or something that was never linked.
    fn lacks_link(&self, record: &ReleaseRecord, path: &str) -> bool {
        let release = self.release_path(&record.release);
        let was_never_linked = || record.linked.as_ref().is_some_and(|linked| !linked.iter().any(|it| it == path));
        let is_free = || release.join(path).symlink_metadata().is_err();
        !self.is_linked(&release, path) && (is_free() || was_never_linked())
    }

    /// Whether a path of a release leads to the same path in `shared/`, in any notation.
    fn is_linked(&self, release: &Path, path: &str) -> bool {
        let (at, shared) = (release.join(path), self.shared_dir().join(path));
        let is_same = |(at, shared)| at == shared;
        fs::read_link(&at).is_ok_and(|text| text == Path::new(&link_text(path)))
            || fs::canonicalize(at).ok().zip(fs::canonicalize(shared).ok()).is_some_and(is_same)
    }

    fn link_one(&self, release: &Path, path: &str, own: Own) -> Result<(), StageFault> {
        self.try_link(release, path, own).map_err(|error| {
            let what = format!("{path:?} could not be linked into {}", release.display());
            StageFault::of(Step::Link, &what, &error)
        })
    }

    fn try_link(&self, release: &Path, path: &str, own: Own) -> io::Result<()> {
        let (parents, name) = path.rsplit_once('/').map_or(("", path), |(parents, name)| (parents, name));
        let mut dir = files::open_dir(release)?;
        for part in parents.split('/').filter(|part| !part.is_empty()) {
            let is_new = match mkdirat(&dir, part, Mode::from_raw_mode(0o755)) {
                Ok(()) => true,
                Err(Errno::EXIST) => false,
                Err(error) => return Err(error.into()),
            };
            dir = files::open_dir_at(&dir, part)?;
            if is_new {
                fchmod(&dir, Mode::from_raw_mode(0o755))?;
            }
        }
        // The shared path takes precedence over the release's own.
        match own {
            Own::Remove => self.clear(&dir, name)?,
            Own::SetAside => set_aside(&dir, name)?,
        }
        symlinkat(link_text(path), &dir, name)?;
        Ok(())
    }

    /// Removes the archive's own entry at the path of a link.
    fn clear(&self, dir: impl AsFd, name: &str) -> io::Result<()> {
        match statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                // Moved first: a release must never contain a partly removed directory.
                let trash = self.scratch_dir().join(files::random_name("trash"));
                renameat(&dir, name, CWD, &trash)?;
                self.remove(&trash);
                Ok(())
            }
            Ok(_) => Ok(unlinkat(&dir, name, AtFlags::empty())?),
        }
    }
}

/// The text of a link. One `../` for each component of `path` leads to the release, and two more lead to the deploy directory.
fn link_text(path: &str) -> String {
    format!("{}shared/{path}", "../".repeat(path.split('/').count() + 1))
}

/// Renames an entry of a release to `<name>.not-linked`, if it exists.
fn set_aside(dir: impl AsFd, name: &str) -> io::Result<()> {
    let aside = format!("{name}.not-linked");
    let is_there = |name: &str| match statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(io::Error::from(error)),
    };
    if !is_there(name)? {
        return Ok(());
    }
    if is_there(&aside)? {
        return Err(io::Error::other(format!("the release has both {name:?} and {aside:?}; move one of them away")));
    }
    tracing::info!(name, aside, "a release's own {name:?} is kept as {aside:?}, because a link to shared/ replaces it");
    Ok(renameat(&dir, name, &dir, &aside)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links(dirs: &[&str], files: &[&str]) -> Result<Links, InvalidLink> {
        let owned = |paths: &[&str]| paths.iter().map(|&p| p.to_owned()).collect::<Vec<_>>();
        Links::new(&owned(dirs), &owned(files))
    }

    #[test]
    fn linked_paths_stay_inside_the_release() {
        for bad in ["", ".", "/etc", "..", "a/../..", "a/..", "a\nb", "REVISION", "./REVISION"] {
            assert!(links(&[bad], &[]).is_err(), "{bad:?} was accepted");
            assert!(links(&[], &[bad]).is_err(), "{bad:?} was accepted");
        }
        let good = links(&["log", "./tmp//pids/"], &[".env", "config/master.key"]).unwrap();
        assert_eq!(good.dirs, ["log", "tmp/pids"]);
    }

    #[test]
    fn linked_paths_are_not_nested() {
        for (dirs, files) in [(&["log", "log"][..], &[][..]), (&["tmp"], &["tmp/x"]), (&["a/b"], &["a"])] {
            assert!(links(dirs, files).is_err());
        }
        assert!(links(&["log", "logs"], &["log.txt"]).is_ok());
    }
}
