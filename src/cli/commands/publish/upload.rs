//! The archive of one build in the store: its upload, its repair, and the removal of an upload that lost its name.

use std::sync::atomic::AtomicU64;

use tokio_util::sync::CancellationToken;

use super::interrupt::interrupted;
use super::{Archive, say, shown};
use crate::artifact::store::{Store, StoreError, Stored, Upload};
use crate::control::publish::Recorder;
use crate::control::{Code, Failure};
use crate::document::bytes;
use crate::protocol::ids::App;
use crate::protocol::record::Build;
use crate::telemetry::chain;

/// Uploads an archive for the builds that it may become.
pub(super) struct Uploader<'a> {
    pub(super) recorder: &'a Recorder<'a>,
    pub(super) store: Store,
    pub(super) app: &'a App,
    pub(super) archive: &'a Archive,
    pub(super) stop: &'a CancellationToken,
}

impl Uploader<'_> {
    /// Uploads the archive of a build.
    ///
    /// # Errors
    ///
    /// As [`Recorder::check_mounted`] and [`Store::put_file`]; exit code 1 if it was interrupted.
    pub(super) async fn put(&self, build: &Build) -> Result<(), Failure> {
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
        if let Some(left) = upload.left() {
            say(&format!(
                "warning: the store still has {left}; the next publish of {} a day later removes it",
                self.app
            ));
        }
        done?
    }

    /// Compares the archive of a recorded build with the record, and uploads it again if it is missing or damaged. Returns
    /// what was wrong. If the store does not answer, this only prints a message: the build is still published.
    ///
    /// # Errors
    ///
    /// As [`Uploader::put`]; exit code 1 if the object is still damaged afterwards.
    pub(super) async fn repair(&self, build: &Build) -> Result<Option<&'static str>, Failure> {
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
        self.put(build).await?;
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

    /// Removes the object of a build whose name another record has, unless that record names the same object.
    pub(super) async fn discard(&self, build: &Build) {
        let key = self.store.key(self.app, build);
        let discarded = async {
            if self.is_named(&key, build).await? {
                return Ok(());
            }
            Box::pin(self.store.delete(&key)).await?;
            // The other record may have been removed meanwhile, and a publisher of the same archive recorded this object.
            if self.is_named(&key, build).await? { self.put(build).await } else { Ok(()) }
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
