//! The objects of one build in the store, its archive and the list of its files: their upload, their repair, and the removal
//! of those that lost their name.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio_util::sync::CancellationToken;

use super::interrupt::interrupted;
use super::progress::{Progress, shown};
use super::say;
use super::source::{Archive, Dir, Running, Source, Stage};
use crate::artifact::manifest_key;
use crate::artifact::store::{Store, StoreError, Stored, Told, Upload};
use crate::control::publish::Recorder;
use crate::control::{Code, Failure, ships};
use crate::document::bytes;
use crate::protocol::ids::{App, ArtifactName, ObjectName};
use crate::protocol::record::{ArchiveFormat, Build};
use crate::telemetry::chain;

/// How an upload ends that was stopped.
const NOTHING: &str = "nothing was published";

/// Uploads an archive and the list of its files for the builds that it may become.
pub(super) struct Uploader<'a> {
    pub(super) recorder: &'a Recorder<'a>,
    pub(super) store: Store,
    pub(super) app: &'a App,
    pub(super) source: &'a Source,
    pub(super) stop: &'a CancellationToken,
}

/// What a build has in the store.
#[derive(Clone, Debug)]
pub(super) struct Objects {
    pub(super) artifact: ArtifactName,
    format: ArchiveFormat,
    archive_key: String,
    list_key: String,
}

impl<'a> Uploader<'a> {
    /// The objects of a build that is not recorded yet.
    pub(super) fn objects(&self, artifact: &ArtifactName, object: &ObjectName) -> Objects {
        let archive_key = self.store.key_below(&format!("{}/{object}", self.app));
        let list_key = manifest_key(&archive_key);
        Objects { artifact: artifact.clone(), format: self.source.format, archive_key, list_key }
    }

    fn objects_of(&self, build: &Build) -> Objects {
        Objects {
            artifact: build.artifact.clone(),
            format: build.format,
            archive_key: self.store.key(self.app, build),
            list_key: self.store.manifest_key(self.app, build),
        }
    }

    /// Uploads the objects of a build that is not recorded yet, and returns the archive. If the list of its files cannot be
    /// stored, its archive is removed again.
    ///
    /// # Errors
    ///
    /// As [`Recorder::check_mounted`], [`Store::put`] and of packing; exit code 1 if it was interrupted. The build must not be
    /// recorded then.
    pub(super) async fn put_new(&self, objects: &Objects) -> Result<&'a Archive, Failure> {
        let (archive, _asked_again) = tokio::join!(self.put_archive(objects), self.source.listing.get());
        let archive = archive?;
        if let Err(failure) = self.put_list(objects).await {
            self.discard(objects).await;
            return Err(failure);
        }
        Ok(archive)
    }

    /// Uploads the archive, and packs it meanwhile if it is not packed yet.
    async fn put_archive(&self, objects: &Objects) -> Result<&'a Archive, Failure> {
        self.recorder.check_mounted(&self.store).await?;
        self.store.remove_dead_uploads(self.app).await;
        if self.stop.is_cancelled() {
            return Err(interrupted(NOTHING));
        }
        match self.source.stage(objects.format) {
            Stage::Complete(archive) => self.put_complete(objects, archive).await.map(|()| archive),
            Stage::Unpacked(dir) => self.pack_and_put(objects, dir).await,
        }
    }

    async fn put_complete(&self, objects: &Objects, archive: &Archive) -> Result<(), Failure> {
        let Objects { archive_key: key, .. } = objects;
        let upload = Upload::of(Told::Archive(archive.sha256.clone()), self.stop);
        let label = format!("uploading {} to {}", bytes(archive.packed_bytes), self.store.place(key));
        let progress = || Progress::new(&label, &upload.sent, Some(archive.packed_bytes)).at(&self.store);
        let done = shown(progress, Box::pin(self.store.put_file(key, &archive.path, &upload))).await;
        self.tell_left(&upload);
        done.map_err(not_uploaded)
    }

    async fn pack_and_put(&self, objects: &Objects, dir: &'a Dir) -> Result<&'a Archive, Failure> {
        let Objects { archive_key: key, format, .. } = objects;
        // A failure of one ends the other: the upload sees that its file is given up, the packing sees the stop.
        let stop = self.stop.child_token();
        let upload = Upload::of(Told::Tree(dir.digest().clone()), &stop);
        let running = dir.pack(*format, &stop)?;
        let Running { spool, read, .. } = &running;
        let (spool, read, is_packed) = (spool.clone(), read.clone(), AtomicBool::new(false));
        let place = self.store.place(key);
        let (both, rest) = (format!("packing {} into {place}", dir.place()), format!("uploading the rest to {place}"));
        let progress = || {
            let shown = if is_packed.load(Ordering::Relaxed) {
                Progress::new(&rest, &upload.sent, Some(spool.written_bytes()))
            } else {
                Progress::new(&both, &read, Some(self.source.totals.bytes))
            };
            shown.at(&self.store)
        };
        let pack = async {
            let packed = running.end().await;
            is_packed.store(true, Ordering::Relaxed);
            packed
        };
        let put = async {
            let put = self.store.put(key, &spool, &upload).await;
            if put.is_err() {
                stop.cancel();
            }
            put
        };
        let work = async { tokio::join!(pack, put) };
        let ended = shown(progress, Box::pin(work)).await;
        self.tell_left(&upload);
        match ended {
            (Ok(archive), Ok(())) => Ok(dir.keep(*format, archive)),
            (Err(failure), Err(StoreError::Stopped { .. }) | Ok(())) => Err(failure),
            (_, Err(error)) => Err(not_uploaded(error)),
        }
    }

    /// Stores the list of a build's files beside its archive.
    async fn put_list(&self, objects: &Objects) -> Result<(), Failure> {
        let Some(packed) = self.source.listing.get().await?.packed() else { return Ok(()) };
        let key = &objects.list_key;
        let upload = Upload::without_digest(self.stop);
        let stored = Box::pin(self.store.put_small(key, packed.to_vec(), &upload)).await;
        self.tell_left(&upload);
        match stored {
            Err(StoreError::Stopped { .. }) => Err(interrupted(NOTHING)),
            stored => stored.map_err(|error| {
                let what = format!("the list of the build's files could not be stored at {}", self.store.place(key));
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
        let own = match self.source.listing.get().await {
            Ok(files) => files.digest(),
            Err(failure) => return say(&format!("warning: {problem}, and {}", failure.chain())),
        };
        if own.as_ref() != Some(recorded) {
            say(&format!("warning: {problem}, and this version makes another list of them"));
            return;
        }
        match self.put_list(&self.objects_of(build)).await {
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
        let archive = self.source.complete(build.format, self.stop).await?;
        if archive.sha256 != build.sha256 {
            let what = format!("{place} is {flaw}, and this version of cutover packs the same files into other bytes");
            let hint = "publish with the version that recorded the build, or publish another commit";
            return Err(Failure::new(Code::Failed, what).hint(hint));
        }
        self.put_archive(&self.objects_of(build)).await?;
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
    pub(super) async fn discard(&self, objects: &Objects) {
        let discarded = async {
            if self.is_named(objects).await? {
                return Ok(());
            }
            Box::pin(self.store.delete(&objects.archive_key)).await?;
            Box::pin(self.store.delete(&objects.list_key)).await?;
            // The other record may have been removed meanwhile, and a publisher of the same archive recorded this object.
            if self.is_named(objects).await? {
                self.put_archive(objects).await?;
                self.put_list(objects).await?;
            }
            Ok(())
        };
        if let Err(failure) = discarded.await {
            let failure: Failure = failure;
            let place = self.store.place(&objects.archive_key);
            say(&format!("warning: {place} may remain in the store without a record: {}", failure.chain()));
        }
    }

    async fn is_named(&self, objects: &Objects) -> Result<bool, Failure> {
        let standing = self.recorder.build(&objects.artifact).await?;
        Ok(standing.is_some_and(|standing| self.store.key(self.app, &standing) == objects.archive_key))
    }

    /// Names the object of a build that may not be recorded.
    pub(super) fn tell_unrecorded(&self, objects: &Objects) {
        let place = self.store.place(&objects.archive_key);
        say(&format!(
            "note: {place} was uploaded, but may have no record; publishing the same files again replaces it"
        ));
    }
}

fn not_uploaded(error: StoreError) -> Failure {
    match error {
        StoreError::Stopped { .. } => interrupted(NOTHING),
        error => error.into(),
    }
}
