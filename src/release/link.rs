//! Shared paths: directories and files that are kept across releases, and linked into each release.
//!
//! [`Links::new`] checks the paths of the settings. [`Site`] checks `shared/` before a release is placed, and replaces each
//! path in the release by a relative link to `shared/`. A missing shared directory is created; a missing shared file never,
//! because an empty `.env` would start an application with wrong settings.
//!
//! The tree of a release comes from an archive, so no function here follows a link inside of it: directories are opened one
//! component at a time, with `O_NOFOLLOW`.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, fchmod, mkdirat, renameat, statat, symlinkat, unlinkat};
use rustix::io::Errno;

use crate::kind::HasKind;
use crate::protocol::record::Step;

use super::fault::StageFault;
use super::files;
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
}

fn within(inner: &str, outer: &str) -> bool {
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

impl Site {
    /// Creates missing shared directories, and fails if a shared file is missing. Changes no release.
    pub(super) fn check_shared(&self, links: &Links) -> Result<(), StageFault> {
        for dir in &links.dirs {
            let path = self.shared_dir().join(dir);
            files::make_dirs(&path).map_err(|error| {
                let what = format!(
                    "linked_dirs has {dir:?}, but {} is not a directory and cannot be created; create the directory",
                    path.display()
                );
                StageFault::of(Step::Link, &what, &error)
            })?;
        }
        links.files.iter().find_map(|file| self.shared_file_fault(file)).map_or(Ok(()), Err)
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

    /// Replaces every linked path of a release by a link into `shared/`.
    pub(super) fn link_shared(&self, release: &Path, links: &Links) -> Result<(), StageFault> {
        for path in links.dirs.iter().chain(&links.files) {
            self.link_one(release, path).map_err(|error| {
                let what = format!("{path:?} could not be linked into {}", release.display());
                StageFault::of(Step::Link, &what, &error)
            })?;
        }
        Ok(())
    }

    fn link_one(&self, release: &Path, path: &str) -> io::Result<()> {
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
        // The archive may contain its own entry at this path; the shared one takes precedence.
        self.clear(&dir, name)?;
        // One `../` per component of `path` leads to the release, and two more lead to the deploy directory.
        let up = "../".repeat(path.split('/').count() + 1);
        symlinkat(format!("{up}shared/{path}"), &dir, name)?;
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
