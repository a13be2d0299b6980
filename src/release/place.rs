//! Places a staged build under `releases/`, and makes it durable there.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::protocol::ids::{Commit, ReleaseName};
use crate::protocol::record::{Release, Step};

use super::durable;
use super::fault::StageFault;
use super::files;
use super::link::{LinkEffect, Links};
use super::record::ReleaseRecord;
use super::site::Site;

/// The result of [`Site::place`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placed {
    /// The release exists already, complete and durable (a rollback, or a restart). It needs no hook and no seal.
    Existing,
    /// The directory was created. It needs the prepare hook, then [`Site::seal`].
    New,
}

impl Site {
    /// Moves a staged build to `releases/<name>`, and adds its `REVISION` and its shared paths.
    ///
    /// An unfinished directory of the same or an older epoch is removed and created again.
    ///
    /// # Errors
    ///
    /// [`Step::Unpack`] if the build is not staged, or the name is in use; [`Step::Link`] if a shared path cannot be linked.
    /// [`Site::discard`], or the next call with the same epoch, removes the rest.
    pub fn place(&self, release: &Release, links: &Links) -> Result<Placed, StageFault> {
        let _writing = self.write_lock();
        let name = &release.release;
        let path = self.release_path(name);
        let failed =
            |e: &io::Error| StageFault::of(Step::Unpack, &format!("{} could not be created", path.display()), e);
        let record = self.record(name).map_err(|e| failed(&e))?;
        match (&record, path.symlink_metadata()) {
            (Some(record), Ok(meta)) if meta.is_dir() && record.holds(release) => return Ok(Placed::Existing),
            (Some(record), Ok(_)) if !record.complete && record.created_by <= release.epoch && self.is_ours(record) => {
                let trash = self.retire(&path).map_err(|e| failed(&e.into()))?;
                self.remove(&trash);
            }
            (_, Err(error)) if error.kind() == io::ErrorKind::NotFound => {}
            (_, Err(error)) => return Err(failed(&error)),
            (_, Ok(_)) => return Err(taken(release, record.as_ref(), &path)),
        }
        let tree = self.staged_path(&release.artifact);
        self.check_shared(links, &tree)?;
        for effect in self.link_effects(&tree, links) {
            if let LinkEffect::Hides(what) = effect {
                tracing::info!(release = %name, "release {name}: {what}");
            }
        }
        let commit = self.move_into_place(release, record.as_ref(), &path, links)?;
        write_revision(&path, &commit).map_err(|e| failed(&e))?;
        self.link_shared(&path, links)?;
        Ok(Placed::New)
    }

    /// Moves the staged tree to `path`, and never replaces anything there. `former` is the record under its name, if there is one.
    fn move_into_place(
        &self,
        release: &Release,
        former: Option<&ReleaseRecord>,
        path: &Path,
        links: &Links,
    ) -> Result<Commit, StageFault> {
        let failed =
            |e: &io::Error| StageFault::of(Step::Unpack, &format!("{} could not be created", path.display()), e);
        let staged = self.staged_note(&release.artifact).map_err(|e| failed(&e))?;
        let Some(staged) = staged.filter(|staged| staged.sha256 == release.sha256) else {
            let reason = format!("{} with the requested digest is not staged on this node", release.artifact);
            return Err(StageFault::new(Step::Unpack, &reason));
        };
        let commit = staged.commit.clone();
        let tree = self.staged_path(&release.artifact);
        let place = || -> io::Result<()> {
            let inode = fs::symlink_metadata(&tree)?.ino();
            // The record comes first: a directory without a record would count as one of another tool, and stay forever.
            let begun = ReleaseRecord::begun(release, staged, inode, links.all().map(str::to_owned).collect());
            let record = match former {
                Some(former) if former.last_run.is_some() => begun.again(former),
                Some(_) | None => begun,
            };
            self.write_record(&record)?;
            if let Err(error) = files::rename_dir_to_new(&tree, path) {
                self.forget_record(&release.release)?;
                return Err(error);
            }
            // Before anything in the tree is changed: after a loss of power it would otherwise be staged again, and no longer be what
            // the archive holds.
            files::sync_dir(&self.releases_dir())?;
            self.remove_staged_note(&release.artifact)
        };
        place().map_err(|e| failed(&e))?;
        Ok(commit)
    }

    /// Makes a placed release durable, including everything that the prepare hook wrote, and records it as complete. From
    /// then on the release survives a loss of power.
    ///
    /// # Errors
    ///
    /// [`Step::Sync`]: the release counts as not durable.
    pub fn seal(&self, name: &ReleaseName) -> Result<(), StageFault> {
        let _writing = self.write_lock();
        let path = self.release_path(name);
        let seal = || -> io::Result<()> {
            let missing = || io::Error::new(io::ErrorKind::NotFound, "it has no record");
            let mut record = self.record(name)?.ok_or_else(missing)?;
            // From now on, changes are damage: see `super::check`.
            self.write_since(&record)?;
            // Everything again: the prepare hook may have written any number of files.
            let notes = self.notes_for_checks(&record);
            let notes: Vec<&Path> = notes.iter().map(PathBuf::as_path).collect();
            durable::sync_tree(&files::open_dir(&path)?, &notes)?;
            files::sync_dir(&self.releases_dir())?;
            files::sync_dir(self.root())?;
            record.complete = true;
            self.write_record(&record)
        };
        seal().map_err(|e| StageFault::of(Step::Sync, &format!("{} could not be made durable", path.display()), &e))
    }
}

fn taken(release: &Release, record: Option<&ReleaseRecord>, path: &Path) -> StageFault {
    let holder = match record {
        None => "which Cutover did not create".to_owned(),
        Some(record) => format!(
            "created by deploy #{} of {}, {}",
            record.created_by,
            record.artifact,
            if record.complete { "complete" } else { "unfinished" }
        ),
    };
    let reason = format!(
        "{} exists already, {holder}, and is not overwritten by deploy #{}: move it away, or deploy again to get a new name",
        path.display(),
        release.epoch
    );
    StageFault::new(Step::Unpack, &reason)
}

/// Writes `REVISION`, readable for all users whatever the umask. Replaces a `REVISION` from the archive; the unpack plan ensures
/// that it is a regular file.
fn write_revision(release: &Path, commit: &Commit) -> io::Result<()> {
    let path = release.join("REVISION");
    files::remove_file_if_there(&path)?;
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(path)?;
    file.set_permissions(fs::Permissions::from_mode(0o644))?;
    writeln!(file, "{commit}")
}
