//! The tree of a release while it is unpacked: directories, links, and the places of files.
//!
//! Every component of a path is opened on its own, relative to its open parent and without following links. The plan accepts no
//! entry below a link anyway; both rules hold on their own, so nothing is ever written through a link.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, fchmod, linkat, mkdirat, symlinkat, unlinkat};
use rustix::io::Errno;

use crate::plan::unpack::split;
use crate::plan::verify::{Found, Listed};

use super::files;
use super::list::ListWriter;
use super::look::{self, look};
use super::writer::Modes;

/// The mode of the release itself, and of directories that only names of entries imply.
const DIRECTORY: u32 = 0o755;

/// The directories of the release. Those on the path to the last used one are kept open.
pub(super) struct Tree {
    root: Arc<OwnedFd>,
    open: Vec<OpenDir>,
    modes: Modes,
}

struct OpenDir {
    name: Vec<u8>,
    dir: Arc<OwnedFd>,
    /// Whether it certainly has [`DIRECTORY`]: it was created here, and no entry has set another mode.
    has_default_mode: bool,
}

impl Tree {
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let root = files::open_dir(dir)?;
        // The directory was just created with mode 0755. Missing bits were removed by umask or ACL.
        let kept = fs::symlink_metadata(dir)?.permissions().mode() & 0o777;
        let modes = if kept == DIRECTORY { Modes::AsCreated } else { Modes::Set };
        if modes == Modes::Set {
            fchmod(&root, Mode::from_raw_mode(DIRECTORY))?;
        }
        Ok(Self { root: Arc::new(root), open: Vec::new(), modes })
    }

    pub(super) const fn modes(&self) -> Modes {
        self.modes
    }

    /// Opens the directory of the entry at `path`, and creates the missing directories on its path.
    pub(super) fn parent(&mut self, path: &[u8]) -> io::Result<Arc<OwnedFd>> {
        self.enter(split(path).parent)
    }

    /// Creates a directory, or changes the mode of an existing one.
    pub(super) fn directory(&mut self, path: &[u8], mode: u32) -> io::Result<()> {
        let dir = self.enter(path)?;
        let is_default = self.open.last().is_some_and(|open| open.has_default_mode);
        if mode != DIRECTORY || !is_default {
            fchmod(&dir, Mode::from_raw_mode(mode))?;
        }
        if let Some(open) = self.open.last_mut() {
            open.has_default_mode = mode == DIRECTORY;
        }
        Ok(())
    }

    pub(super) fn symlink(&mut self, path: &[u8], target: &[u8]) -> io::Result<()> {
        Ok(symlinkat(target, self.parent(path)?, split(path).name)?)
    }

    /// Gives the file or link at `target` a second name. A link is not followed.
    pub(super) fn hardlink(&mut self, path: &[u8], target: &[u8]) -> io::Result<()> {
        let from = self.parent(target)?;
        let dir = self.parent(path)?;
        Ok(linkat(from, split(target).name, dir, split(path).name, AtFlags::empty())?)
    }

    /// Adds the file or link at `path` to a list, as it is on the disk.
    pub(super) fn list(&mut self, path: &[u8], list: &ListWriter) -> io::Result<()> {
        let (dir, name) = (self.parent(path)?, split(path).name);
        let listed = match look(&*dir, name)?.found {
            Found::File { mode, bytes, written } => {
                let sha256 = list.has_digests().then(|| look::digest(&*dir, name, || Ok(()))).transpose()?;
                Listed::File { mode, bytes, written, sha256 }
            }
            Found::Symlink { target } => Listed::Symlink { target },
            Found::Directory { mode } => Listed::Directory { mode },
            Found::Missing | Found::Other => return Err(Errno::NOENT.into()),
        };
        list.add(path, &listed);
        Ok(())
    }

    /// Removes a file or a link.
    pub(super) fn remove_file(&mut self, path: &[u8]) -> io::Result<()> {
        Ok(unlinkat(self.parent(path)?, split(path).name, AtFlags::empty())?)
    }

    /// Removes an empty directory.
    pub(super) fn remove_dir(&mut self, path: &[u8]) -> io::Result<()> {
        // Entering its parent closes it.
        Ok(unlinkat(self.parent(path)?, split(path).name, AtFlags::REMOVEDIR)?)
    }

    fn enter(&mut self, path: &[u8]) -> io::Result<Arc<OwnedFd>> {
        let parts = || path.split(|byte| *byte == b'/').filter(|part| !part.is_empty());
        let shared = self.open.iter().zip(parts()).take_while(|(open, part)| open.name == *part).count();
        self.open.truncate(shared);
        for part in parts().skip(shared) {
            let parent = self.open.last().map_or(&self.root, |open| &open.dir);
            let is_new = match mkdirat(parent, part, Mode::from_raw_mode(DIRECTORY)) {
                Ok(()) => true,
                Err(Errno::EXIST) => false,
                Err(error) => return Err(error.into()),
            };
            let dir = files::open_dir_at(parent, part)?;
            if is_new && self.modes == Modes::Set {
                fchmod(&dir, Mode::from_raw_mode(DIRECTORY))?;
            }
            self.open.push(OpenDir { name: part.to_owned(), dir: Arc::new(dir), has_default_mode: is_new });
        }
        Ok(Arc::clone(self.open.last().map_or(&self.root, |open| &open.dir)))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// The plan refuses such entries before; this is the second line of defense.
    #[test]
    fn nothing_is_written_through_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let (release, outside) = (dir.path().join("release"), dir.path().join("outside"));
        for path in [&release, &outside, &release.join("real"), &outside.join("below")] {
            fs::create_dir(path).unwrap();
        }
        symlink(&outside, release.join("link")).unwrap();
        symlink("link", release.join("again")).unwrap();
        let mut tree = Tree::open(&release).unwrap();
        tree.symlink(b"made", b"../outside").unwrap();
        for link in ["link", "again", "made", "real/../link"] {
            let below = format!("{link}/new");
            assert!(tree.directory(below.as_bytes(), 0o755).is_err(), "{link}");
            assert!(tree.directory(link.as_bytes(), 0o700).is_err(), "{link}");
            assert!(tree.parent(below.as_bytes()).is_err(), "{link}");
            assert!(tree.symlink(below.as_bytes(), b"x").is_err(), "{link}");
            assert!(tree.remove_dir(format!("{link}/below").as_bytes()).is_err(), "{link}");
        }
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
        // A link is removed itself, and a second name is one of the link.
        tree.hardlink(b"hard", b"link").unwrap();
        tree.remove_file(b"link").unwrap();
        assert_eq!(fs::read_link(release.join("hard")).unwrap(), outside);
        assert!(outside.join("below").exists());
    }
}
