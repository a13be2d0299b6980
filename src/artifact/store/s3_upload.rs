//! Uploads to S3: in one request, or in parts.
//!
//! A line that is slow but steady must not fail an upload. So parts share the line only where it is fast enough for each of
//! them, and the time limits allow for what the kernel buffers, because the SDK sees only when it hands over bytes.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use aws_sdk_s3::config::Builder;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::primitives::{ByteStream, Length};
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart, MultipartUpload};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Limits;
use super::error::StoreError;
use super::line::{PARALLEL_PART_BYTES_PER_SEC, parallel_parts};
use super::s3::S3Store;
use super::s3_error::{explain, explain_upload};
use super::spool::{Abandoned, Spool};
use super::upload::{DEAD_AFTER, SLOWEST_UPLOAD_BYTES_PER_SEC, Upload};

/// Bytes of a file read at once. The SDK's default of 4 KiB causes more calls than sending.
const UPLOAD_BUFFER_BYTES: usize = 128 << 10;

/// The most parts of an upload: S3 User Guide, "Amazon S3 multipart upload limits".
const MOST_PARTS: u64 = 10_000;

/// The time limit for aborting an upload. A caller that was interrupted waits for it.
const ABORT_LIMIT: Duration = Duration::from_secs(10);

/// How long parts in progress may still take before an upload is aborted. On a slow line they are far from their end, and
/// the store drops what is broken off in the middle.
const PARTS_END_LIMIT: Duration = Duration::from_secs(2);

/// The time limit for finding and aborting the unfinished uploads of dead publishers, which is only tidying up.
const TIDY_LIMIT: Duration = Duration::from_secs(20);

/// A part of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    number: i32,
    offset: u64,
    length: u64,
    /// Whether it was too slow beside others, and is sent alone now.
    is_alone: bool,
}

impl S3Store {
    pub(super) async fn put(&self, key: &str, spool: &Spool, upload: &Upload) -> Result<(), StoreError> {
        let part_bytes = self.limits.part_bytes.max(spool.most_bytes().div_ceil(MOST_PARTS));
        let mut spool = spool.clone();
        let begun = tokio::select! {
            begun = spool.reaches(part_bytes + 1) => begun.map_err(|Abandoned| self.stopped(key))?,
            () = upload.stop.cancelled() => return Err(self.stopped(key)),
        };
        if begun.bytes <= part_bytes {
            return tokio::select! {
                done = self.patiently(|| self.put_whole(key, spool.path(), begun.bytes, upload)) => done,
                () = upload.stop.cancelled() => Err(self.stopped(key)),
            };
        }
        let id = tokio::select! {
            id = self.patiently(|| self.begin(key, upload)) => id?,
            () = upload.stop.cancelled() => return Err(self.stopped(key)),
        };
        let done = match self.put_parts(key, &id, Parts::new(spool, part_bytes), upload).await {
            Ok(sent) => self.complete(key, &id, sent, upload).await,
            Err(error) => Err(error),
        };
        if done.is_err() {
            self.abort(key, &id, upload).await;
        }
        done
    }

    /// Begins an upload in parts, and returns its id.
    async fn begin(&self, key: &str, upload: &Upload) -> Result<String, StoreError> {
        let create = self.client.create_multipart_upload().bucket(&self.bucket).key(key);
        let created = create.set_metadata(metadata_of(upload)).send().await;
        Ok(created.map_err(|e| explain(&self.target(key), e))?.upload_id.unwrap_or_default())
    }

    async fn put_whole(&self, key: &str, file: &Path, size_bytes: u64, upload: &Upload) -> Result<(), StoreError> {
        let body = body_of(file, 0, size_bytes).await?;
        let request =
            self.client.put_object().bucket(&self.bucket).key(key).set_metadata(metadata_of(upload)).body(body);
        let sent = request.customize().config_override(self.upload_limits(size_bytes)).send().await;
        sent.map_err(|e| explain_upload(&self.target(key), e))?;
        upload.sent.fetch_add(size_bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Sends parts as soon as they are written.
    async fn put_parts(&self, key: &str, id: &str, mut parts: Parts, upload: &Upload) -> Result<Sent, StoreError> {
        let mut running = JoinSet::new();
        let mut sent = Sent::default();
        let (began, mut at_once, mut is_last_known) = (Instant::now(), 1, false);
        while !is_last_known || !running.is_empty() {
            tokio::select! {
                part = parts.next(), if !is_last_known && running.len() < at_once => match part {
                    Ok(Some(part)) => {
                        let (store, key, id, file) = (self.clone(), key.to_owned(), id.to_owned(), parts.path());
                        running.spawn(async move {
                            (part, store.patiently(|| store.put_part(&key, &id, &file, part)).await)
                        });
                    }
                    Ok(None) => is_last_known = true,
                    Err(Abandoned) => return self.give_up(running, self.stopped(key)).await,
                },
                Some(ended) = running.join_next(), if !running.is_empty() => {
                    let failed = |e| (NO_PART, Err(unreadable(&parts.path(), io::Error::other(e))));
                    let (part, ended) = ended.unwrap_or_else(failed);
                    match ended {
                        Ok(completed) => {
                            upload.sent.fetch_add(part.length, Ordering::Relaxed);
                            sent.bytes += part.length;
                            sent.parts.push(completed);
                            at_once = if part.is_alone { 1 } else { parallel_parts(sent.bytes, began.elapsed(), PARALLEL_PART_BYTES_PER_SEC) };
                        }
                        Err(StoreError::SlowUpload { .. }) if !part.is_alone && part.length > 0 => {
                            parts.send_again_alone(part);
                            (at_once, is_last_known) = (1, false);
                        }
                        Err(error) => return self.give_up(running, error).await,
                    }
                }
                () = upload.stop.cancelled() => return self.give_up(running, self.stopped(key)).await,
            }
        }
        sent.parts.sort_unstable_by_key(|part: &CompletedPart| part.part_number);
        Ok(sent)
    }

    /// Lets parts in progress end before the upload is aborted. If one is broken off whose bytes have all arrived, the store may
    /// keep it after the abort: "Aborting a multipart upload" of the S3 User Guide.
    async fn give_up<T: 'static>(&self, mut running: JoinSet<T>, error: StoreError) -> Result<Sent, StoreError> {
        let all = async { while running.join_next().await.is_some() {} };
        if tokio::time::timeout(PARTS_END_LIMIT, all).await.is_err() {
            running.shutdown().await;
        }
        Err(error)
    }

    async fn complete(&self, key: &str, id: &str, sent: Sent, upload: &Upload) -> Result<(), StoreError> {
        let Sent { bytes: size_bytes, parts } = sent;
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let completed = async {
            let Err(error) = self.patiently(|| self.complete_once(key, id, &parts, size_bytes)).await else {
                return Ok(());
            };
            // The answer may have been lost. A retry is refused then, because the completed upload is no longer known.
            if self.is_complete(key, size_bytes, upload).await { Ok(()) } else { Err(error) }
        };
        tokio::select! {
            completed = completed => completed,
            () = upload.stop.cancelled() => Err(self.stopped(key)),
        }
    }

    async fn complete_once(
        &self,
        key: &str,
        id: &str,
        parts: &CompletedMultipartUpload,
        size_bytes: u64,
    ) -> Result<(), StoreError> {
        let complete = self.client.complete_multipart_upload().bucket(&self.bucket).key(key);
        let complete = complete.upload_id(id).multipart_upload(parts.clone());
        // The server may copy all parts before it answers, so the limit is that of a whole upload.
        let complete = complete.customize().config_override(self.upload_limits(size_bytes));
        complete.send().await.map(drop).map_err(|error| explain_upload(&self.target(key), error))
    }

    async fn put_part(&self, key: &str, id: &str, file: &Path, part: Part) -> Result<CompletedPart, StoreError> {
        let body = body_of(file, part.offset, part.length).await?;
        let request = self.client.upload_part().bucket(&self.bucket).key(key).upload_id(id);
        let request = request.part_number(part.number).body(body).customize();
        let sent = request.config_override(self.upload_limits(part.length)).send().await;
        let sent = sent.map_err(|e| explain_upload(&self.target(key), e))?;
        Ok(CompletedPart::builder().part_number(part.number).set_e_tag(sent.e_tag).build())
    }

    /// Whether the object is there with the size of this upload, and its metadata where the store keeps any.
    async fn is_complete(&self, key: &str, size_bytes: u64, upload: &Upload) -> bool {
        let Ok(Some(stat)) = Box::pin(self.stat(key)).await else { return false };
        stat.bytes == size_bytes && upload.told.as_ref().zip(stat.told.as_ref()).is_none_or(|(a, b)| a == b)
    }

    async fn abort(&self, key: &str, id: &str, upload: &Upload) {
        let abort = self.client.abort_multipart_upload().bucket(&self.bucket).key(key).upload_id(id).send();
        let problem = match tokio::time::timeout(ABORT_LIMIT, abort).await {
            Ok(Ok(_)) => return,
            Ok(Err(error)) => match explain(&self.target(key), error) {
                StoreError::UploadGone { .. } => return,
                error => error.to_string(),
            },
            Err(_) => format!("no answer in {} s", ABORT_LIMIT.as_secs()),
        };
        // The parts cost money until they are removed.
        let place = self.place(key);
        upload.leaves(format!(
            "the parts of the unfinished upload {id} of {place}, which could not be aborted: {problem}"
        ));
    }

    /// Aborts uploads to keys below `prefix` that are older than [`DEAD_AFTER`]. Best effort: the server may not support
    /// this, or not allow it.
    pub(super) async fn abort_dead_uploads(&self, prefix: &str) {
        let (mut key_marker, mut id_marker) = (None, None);
        let tidy = async {
            loop {
                let list = self.client.list_multipart_uploads().bucket(&self.bucket).prefix(prefix);
                let list = list.set_key_marker(key_marker.take()).set_upload_id_marker(id_marker.take());
                let Ok(page) = list.send().await else { return };
                for (key, id) in page.uploads.unwrap_or_default().into_iter().filter_map(|it| dead_upload(prefix, it)) {
                    let abort = self.client.abort_multipart_upload().bucket(&self.bucket).key(&key).upload_id(&id);
                    if abort.send().await.is_err() {
                        return;
                    }
                    let place = self.place(&key);
                    tracing::debug!(%place, id, "{place}: aborted the upload {id} of a publisher that died");
                }
                (key_marker, id_marker) = (page.next_key_marker, page.next_upload_id_marker);
                if page.is_truncated != Some(true) || key_marker.is_none() {
                    return;
                }
            }
        };
        let _unimportant = tokio::time::timeout(TIDY_LIMIT, tidy).await;
    }

    fn stopped(&self, key: &str) -> StoreError {
        StoreError::Stopped { place: self.place(key) }
    }

    /// Time limits for an upload of this size. The SDK measures the wait for an answer from the start of the request, so
    /// the limit must include the upload. The SDK's stalled stream protection detects stuck connections earlier.
    fn upload_limits(&self, size_bytes: u64) -> Builder {
        let limit = upload_limit(&self.limits, size_bytes);
        let timeouts = TimeoutConfig::builder().connect_timeout(self.limits.connect);
        let timeouts = timeouts.read_timeout(limit + self.limits.connect).operation_attempt_timeout(limit);
        Builder::default().timeout_config(timeouts.build())
    }
}

/// The time limit for sending so many bytes and for the answer.
fn upload_limit(limits: &Limits, size_bytes: u64) -> Duration {
    limits.stall + Duration::from_secs(size_bytes / SLOWEST_UPLOAD_BYTES_PER_SEC)
}

/// Stands for all parts where none ended.
const NO_PART: Part = Part { number: 0, offset: 0, length: 0, is_alone: true };

/// What was sent.
#[derive(Debug, Default)]
struct Sent {
    bytes: u64,
    parts: Vec<CompletedPart>,
}

/// The parts of a file, as it grows.
#[derive(Debug)]
struct Parts {
    spool: Spool,
    part_bytes: u64,
    next: Part,
    /// Parts that were too slow beside others.
    again: VecDeque<Part>,
}

impl Parts {
    const fn new(spool: Spool, part_bytes: u64) -> Self {
        let next = Part { number: 1, offset: 0, length: 0, is_alone: false };
        Self { spool, part_bytes, next, again: VecDeque::new() }
    }

    fn path(&self) -> PathBuf {
        self.spool.path().to_owned()
    }

    /// The next part, as soon as it is written; none after the last.
    ///
    /// # Cancel safety
    ///
    /// Safe: no part is lost.
    async fn next(&mut self) -> Result<Option<Part>, Abandoned> {
        if let Some(part) = self.again.pop_front() {
            return Ok(Some(part));
        }
        let written = self.spool.reaches(self.next.offset + self.part_bytes).await?;
        let length = self.part_bytes.min(written.bytes - self.next.offset);
        if length == 0 {
            return Ok(None);
        }
        let part = Part { length, ..self.next };
        self.next = Part { number: part.number + 1, offset: part.offset + length, ..self.next };
        Ok(Some(part))
    }

    /// Sends this part again, and from now on one part at a time.
    fn send_again_alone(&mut self, part: Part) {
        self.next.is_alone = true;
        for waiting in &mut self.again {
            waiting.is_alone = true;
        }
        self.again.push_back(Part { is_alone: true, ..part });
    }
}

/// Key and id of an upload that its publisher has given up, if it is one.
fn dead_upload(prefix: &str, upload: MultipartUpload) -> Option<(String, String)> {
    let began = SystemTime::try_from(upload.initiated?).ok()?;
    let is_dead = SystemTime::now().duration_since(began).is_ok_and(|age| age > DEAD_AFTER);
    let key = upload.key.filter(|key| is_dead && key.starts_with(prefix))?;
    Some((key, upload.upload_id?))
}

fn metadata_of(upload: &Upload) -> Option<HashMap<String, String>> {
    let told = upload.told.as_ref()?;
    Some([(told.metadata_name().to_owned(), told.digest().to_string())].into())
}

/// The body of an upload: a part of a file, which is read during the upload, and again for a retry.
async fn body_of(file: &Path, offset: u64, length: u64) -> Result<ByteStream, StoreError> {
    let body = ByteStream::read_from().path(file).offset(offset).length(Length::Exact(length));
    let body = body.buffer_size(UPLOAD_BUFFER_BYTES).build().await;
    body.map_err(|e| unreadable(file, io::Error::other(e)))
}

fn unreadable(file: &Path, source: io::Error) -> StoreError {
    StoreError::Disk { action: "read", path: file.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use tokio::time::timeout;

    use super::super::upload::{SEND_BUFFER_BYTES, unseen_limit};
    use super::*;

    /// What a line of 200 kB/s needs for a file of 5 GB, beside the limits that would end it.
    #[test]
    fn five_gigabytes_over_200_kilobytes_per_second_are_within_every_limit() {
        let (file_bytes, bytes_per_sec) = (5_000_000_000, 200_000);
        let limits = Limits::default();
        assert!(file_bytes < limits.part_bytes * MOST_PARTS);
        assert_eq!(
            parallel_parts(
                limits.part_bytes,
                Duration::from_secs(limits.part_bytes / bytes_per_sec),
                PARALLEL_PART_BYTES_PER_SEC
            ),
            1
        );
        let sending = |bytes: u64| Duration::from_secs(bytes / bytes_per_sec + 1);
        assert!(sending(limits.part_bytes) * 3 < upload_limit(&limits, limits.part_bytes), "each part in time");
        assert!(sending(file_bytes) * 3 < upload_limit(&limits, file_bytes), "and the last answer");
        assert!(sending(file_bytes) * 3 < DEAD_AFTER, "others do not take the upload for a dead one");
        let hidden_bytes = SEND_BUFFER_BYTES.max(UPLOAD_BUFFER_BYTES as u64);
        assert!(sending(hidden_bytes) < limits.stall + unseen_limit(), "what the kernel buffers is no pause");
    }

    #[tokio::test]
    async fn parts_cover_a_file_while_it_grows() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (spool, mut writer) = Spool::growing(file.path(), file.reopen().unwrap(), 25);
        let mut parts = Parts::new(spool, 10);
        writer.write_all(&[0; 9]).unwrap();
        assert!(timeout(Duration::ZERO, parts.next()).await.is_err(), "the part is not full, and there may be more");
        writer.write_all(&[0; 16]).unwrap();
        let mut found = Vec::new();
        for _ in 0..2 {
            found.push(parts.next().await.unwrap().unwrap());
        }
        assert!(timeout(Duration::ZERO, parts.next()).await.is_err());
        parts.send_again_alone(found[0]);
        found.push(parts.next().await.unwrap().unwrap());
        writer.finish();
        found.push(parts.next().await.unwrap().unwrap());
        assert_eq!(parts.next().await.unwrap(), None);
        let found: Vec<_> = found.iter().map(|part| (part.number, part.offset, part.length, part.is_alone)).collect();
        assert_eq!(found, [(1, 0, 10, false), (2, 10, 10, false), (1, 0, 10, true), (3, 20, 5, true)]);
    }

    #[tokio::test]
    async fn a_file_that_is_given_up_has_no_more_parts() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (spool, writer) = Spool::growing(file.path(), file.reopen().unwrap(), 25);
        let mut parts = Parts::new(spool, 10);
        drop(writer);
        parts.next().await.unwrap_err();
    }

    #[test]
    fn only_uploads_below_the_prefix_that_are_older_than_a_day_are_dead() {
        let upload = |key: &str, age_secs: u64| {
            let began = SystemTime::now() - Duration::from_secs(age_secs);
            let upload = MultipartUpload::builder().key(key).upload_id("7").initiated(began.into()).build();
            dead_upload("builds/shop/", upload).is_some()
        };
        assert!(upload("builds/shop/a", 90_000));
        assert!(!upload("builds/shop/a", 80_000));
        assert!(!upload("builds/shopping/a", 90_000));
    }
}
