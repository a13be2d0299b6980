//! The objects of one build in the store, its archive and the list of its files: their upload, their repair, and the removal
//! of those that lost their name.

use std::sync::atomic::AtomicU64;

use tokio_util::sync::CancellationToken;

use super::interrupt::interrupted;
use super::{Archive, say, shown};
use crate::artifact::store::{Store, StoreError, Stored, Upload};
use crate::cli::ships::Files;
use crate::control::publish::Recorder;
use crate::control::{Code, Failure, ships};
use crate::document::bytes;
use crate::protocol::ids::App;
use crate::protocol::record::Build;
use crate::telemetry::chain;

/// Uploads an archive and the list of its files for the builds that it may become.
pub(super) struct Uploader<'a> {
    pub(super) recorder: &'a Recorder<'a>,
    pub(super) store: Store,
    pub(super) app: &'a App,
    pub(super) archive: &'a Archive,
    pub(super) files: &'a Files,
    pub(super) stop: &'a CancellationToken,
}

impl Uploader<'_> {
    /// Uploads the objects of a build that is not recorded yet. If the list of its files cannot be stored, its archive is
    /// removed again.
    ///
    /// # Errors
    ///
    /// As [`Recorder::check_mounted`] and [`Store::put_file`]; exit code 1 if it was interrupted. The build must not be
    /// recorded then.
    pub(super) async fn put_new(&self, build: &Build) -> Result<(), Failure> {
        self.put_archive(build).await?;
        let listed = self.put_list(build).await;
        if listed.is_err() {
            self.discard(build).await;
        }
        listed
    }

    async fn put_archive(&self, build: &Build) -> Result<(), Failure> {
        self.recorder.check_mounted(&self.store).await?;
        self.store.remove_dead_uploads(self.app).await;
        let key = self.store.key(self.app, build);
        let upload = Upload::of(&build.sha256, self.stop);
        let label = format!("uploading {} to {}", bytes(build.packed_bytes), self.store.place(&key));
        let work = Box::pin(async {
            if self.stop.is_cancelled() {
                return Ok(Err(interrupted("nothing was published")));
            }
            match self.store.put_file(&key, &self.archive.path, &upload).await {
                Err(StoreError::Stopped { .. }) => Ok(Err(interrupted("nothing was published"))),
                done => done.map(Ok),
            }
        });
        let done = shown::<_, StoreError>(&label, Some(build.packed_bytes), &upload.sent, work).await;
        self.tell_left(&upload);
        done?
    }

    /// Stores the list of a build's files beside its archive.
    async fn put_list(&self, build: &Build) -> Result<(), Failure> {
        let Some(packed) = self.files.packed() else { return Ok(()) };
        let key = self.store.manifest_key(self.app, build);
        let upload = Upload::without_digest(self.stop);
        let stored = Box::pin(self.store.put_small(&key, packed.to_vec(), &upload)).await;
        self.tell_left(&upload);
        match stored {
            Err(StoreError::Stopped { .. }) => Err(interrupted("nothing was published")),
            stored => stored.map_err(|error| {
                let what = format!("the list of the build's files could not be stored at {}", self.store.place(&key));
                let failure = Failure::from(error);
                Failure::new(failure.code, what).caused_by(failure)
            }),
        }
    }

    fn tell_left(&self, upload: &Upload) {
        if let Some(left) = upload.left() {
            let app = self.app;
            say(&format!("warning: the store still has {left}; the next publish of {app} a day later removes it"));
        }
    }

    /// Compares the objects of a recorded build with the record, and uploads those again that are missing or damaged. Returns
    /// what was wrong with the archive. If the store does not answer, this only prints a message: the build is still
    /// published.
    ///
    /// # Errors
    ///
    /// As [`Uploader::put_new`]; exit code 1 if the archive is still damaged afterwards.
    pub(super) async fn repair(&self, build: &Build) -> Result<Option<&'static str>, Failure> {
        let flaw = self.repair_archive(build).await?;
        self.repair_list(build).await;
        Ok(flaw)
    }

    /// A failure is only a warning, because nodes need no list.
    async fn repair_list(&self, build: &Build) {
        let Some(recorded) = &build.manifest else { return };
        let Err(problem) = ships::manifest(&self.store, self.app, build).await else { return };
        let problem = problem.chain();
        if self.files.digest().as_ref() != Some(recorded) {
            say(&format!("warning: {problem}, and this version makes another list of them"));
            return;
        }
        match self.put_list(build).await {
            Ok(()) => say(&format!("stored the list of the build's files again: {problem}")),
            Err(failure) => say(&format!("warning: {}", failure.chain())),
        }
    }

    async fn repair_archive(&self, build: &Build) -> Result<Option<&'static str>, Failure> {
        let place = self.store.place(&self.store.key(self.app, build));
        let flaw = match self.compare(build).await {
            Ok(stored) => stored.flaw(),
            Err(error) => {
                let error = chain(&error);
                say(&format!("warning: cannot check whether the archive in the store is complete: {error}"));
                return Ok(None);
            }
        };
        let Some(flaw) = flaw else { return Ok(None) };
        say(&format!("the archive of {} is {flaw} in the store; uploading it again", build.artifact));
        self.put_archive(build).await?;
        match self.compare(build).await.map_err(Failure::from)?.flaw() {
            None => Ok(Some(flaw)),
            Some(flaw) => {
                let what = format!("{place} is {flaw}, though it was uploaded again");
                let hint = "another program writes or removes this object, or the store does not keep what it accepts";
                Err(Failure::new(Code::Failed, what).hint(hint))
            }
        }
    }

    async fn compare(&self, build: &Build) -> Result<Stored, StoreError> {
        let key = self.store.key(self.app, build);
        Box::pin(self.store.compare(&key, build, &AtomicU64::new(0))).await
    }

    /// Removes the objects of a build that is not recorded, unless the record that has its name names the same archive.
    pub(super) async fn discard(&self, build: &Build) {
        let key = self.store.key(self.app, build);
        let discarded = async {
            if self.is_named(&key, build).await? {
                return Ok(());
            }
            Box::pin(self.store.delete(&key)).await?;
            Box::pin(self.store.delete(&self.store.manifest_key(self.app, build))).await?;
            // The other record may have been removed meanwhile, and a publisher of the same archive recorded this object.
            if self.is_named(&key, build).await? {
                self.put_archive(build).await?;
                self.put_list(build).await?;
            }
            Ok(())
        };
        if let Err(failure) = discarded.await {
            let failure: Failure = failure;
            let place = self.store.place(&key);
            say(&format!("warning: {place} may remain in the store without a record: {}", failure.chain()));
        }
    }

    async fn is_named(&self, key: &str, build: &Build) -> Result<bool, Failure> {
        let standing = self.recorder.build(&build.artifact).await?;
        Ok(standing.is_some_and(|standing| self.store.key(self.app, &standing) == key))
    }

    /// Names the object of a build that may not be recorded.
    pub(super) fn tell_unrecorded(&self, build: &Build) {
        let place = self.store.place(&self.store.key(self.app, build));
        say(&format!("note: {place} was uploaded, but may have no record; publishing the same archive again uses it"));
    }
}
