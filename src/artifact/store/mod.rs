//! The artifact store: an S3 bucket, or a directory that every machine can read.
//!
//! A store returns sizes and bytes by key, from any offset, and stores whole files. It needs no listing, versioning, tags, or
//! conditional writes, because not every S3 server supports them (unfinished uploads are listed where that is allowed). The
//! digest in the build record detects a wrong artifact, or one that was replaced while it was read.
//!
//! Every call ends: connecting, waiting for an answer, and pauses within a body have time limits ([`Limits`]). Calls are retried
//! a bounded number of times if that can help.

mod busy;
mod dir;
mod dir_upload;
mod error;
mod line;
mod mount_check;
mod s3;
mod s3_call;
mod s3_credentials;
mod s3_error;
mod s3_proxy;
mod s3_upload;
mod s3_variables;
mod small;
mod spool;
mod stat;
mod upload;
mod url;

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;

use crate::artifact::name::{manifest_key, object_key};
use crate::protocol::ids::App;
use crate::protocol::record::Build;

pub(crate) use dir::DirStore;
pub use error::Class;
pub use error::StoreError;
pub(super) use line::{MOST_PARALLEL_PARTS, PARALLEL_PART_BYTES_PER_SEC, parallel_parts};
pub use s3::S3Credentials;
pub use s3::S3Store;
pub(crate) use s3_call::{Permission, StoreRole, Subject};
pub(crate) use s3_error::is_busy;
pub(crate) use s3_variables::ignored_variables;
pub use spool::Spool;
pub use spool::SpoolWriter;
pub use stat::Stat;
pub use stat::Stored;
pub use stat::Told;
pub use upload::Upload;
pub use url::StoreUrl;
pub(crate) use url::StoreUrlError;

/// Settings for S3 besides the URL. Credentials come from the sources of the AWS tools: environment, profile, container or
/// instance role.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct S3Settings {
    /// The bucket's region; default: from the environment or the instance.
    pub region: Option<String>,
    /// A server other than AWS, for example `https://s3.example.com`; default: `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`.
    pub endpoint: Option<String>,
    /// Puts the bucket into the path instead of the host name, as most other servers require.
    pub force_path_style: bool,
    /// Time limits and retries, also for a directory.
    pub limits: Limits,
}

/// Time limits and retries of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The time limit for a connection, TLS included.
    pub connect: Duration,
    /// The time limit for the start of an answer, and for each next piece of a body. It also applies to a directory, whose
    /// mount can hang.
    pub stall: Duration,
    /// The maximum number of attempts for a call with temporary failures.
    pub attempts: u32,
    /// The pause before the second attempt; it doubles from there, with jitter.
    pub backoff: Duration,
    /// For how long a server that asks for fewer requests is asked again, besides the attempts of each request. S3 scales a
    /// prefix within minutes.
    pub patience: Duration,
    /// Size of a part of a multipart upload; smaller files are uploaded in one request. S3 requires at least 5 MiB.
    pub part_bytes: u64,
}

impl Default for Limits {
    /// Connecting needs up to three round trips, so 5 s is long. TCP recovers from every pause that is shorter than 30 s. Four
    /// attempts, with pauses from half a second, outlast the restart of a server behind a load balancer (about 4 s); further
    /// retries are left to the caller, who knows about progress. A failed part of 16 MiB loses little.
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            stall: Duration::from_secs(30),
            attempts: 4,
            backoff: Duration::from_millis(500),
            patience: Duration::ZERO,
            part_bytes: 16 << 20,
        }
    }
}

/// An opened store. Cheap to clone.
#[derive(Clone, Debug)]
pub enum Store {
    /// A directory.
    Dir(DirStore),
    /// A bucket.
    S3(S3Store),
}

impl Store {
    /// Opens the store. Finds region and credentials for S3, but sends nothing yet.
    ///
    /// # Errors
    ///
    /// [`StoreError::Settings`] when no region is known, [`StoreError::Variable`] for a variable of the AWS tools that cannot be
    /// used.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub async fn open(url: &StoreUrl, settings: &S3Settings) -> Result<Self, StoreError> {
        match url {
            StoreUrl::Dir { root } => Ok(Self::Dir(DirStore::new(root, settings.limits.stall))),
            StoreUrl::S3 { bucket, prefix } => Ok(Self::S3(S3Store::open(bucket, prefix, settings).await?)),
        }
    }

    /// What the environment asks for and this store ignores, one sentence each.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        match self {
            Self::Dir(_) => &[],
            Self::S3(store) => &store.notes,
        }
    }

    /// Whether a call waits now because the server asks for fewer requests.
    #[must_use]
    pub(crate) fn is_busy(&self) -> bool {
        match self {
            Self::Dir(_) => false,
            Self::S3(store) => store.busy.is_waiting(),
        }
    }

    /// The key of a build's archive in this store.
    #[must_use]
    pub fn key(&self, app: &App, build: &Build) -> String {
        self.key_below(&object_key(app, build))
    }

    /// The key of a build's manifest in this store, beside its archive.
    #[must_use]
    pub(crate) fn manifest_key(&self, app: &App, build: &Build) -> String {
        manifest_key(&self.key(app, build))
    }

    /// The name of an object for operators: `s3://bucket/key`, or its path.
    #[must_use]
    pub(crate) fn place(&self, key: &str) -> String {
        match self {
            Self::Dir(store) => store.place(key),
            Self::S3(store) => store.place(key),
        }
    }

    /// Stores the content of a complete file at `key`, as [`Store::put`] does.
    ///
    /// # Errors
    ///
    /// As [`Store::put`].
    ///
    /// # Cancel safety
    ///
    /// As [`Store::put`].
    pub async fn put_file(&self, key: &str, file: &Path, upload: &Upload) -> Result<(), StoreError> {
        let unreadable = |source| StoreError::Disk { action: "read", path: file.to_owned(), source };
        self.put(key, &Spool::whole(file).await.map_err(unreadable)?, upload).await
    }

    /// Stores a file's content at `key` atomically, replacing an existing object. The upload begins before the file is complete,
    /// and ends after it.
    ///
    /// # Errors
    ///
    /// [`StoreError`], with [`StoreError::Stopped`] after `upload.stop`, and if the file's writer gave up; the previous object is
    /// then still at `key`, unless the connection broke at the very end. Uploaded data is removed; [`Upload::left`] names what
    /// could not be.
    ///
    /// # Cancel safety
    ///
    /// Nothing appears at `key`, but the parts of a multipart upload stay in the bucket until
    /// [`Store::remove_dead_uploads`] removes them, and a directory's temporary file is written to its end. Stop the upload
    /// instead.
    pub async fn put(&self, key: &str, spool: &Spool, upload: &Upload) -> Result<(), StoreError> {
        match self {
            Self::Dir(store) => store.put(key, spool, upload).await,
            Self::S3(store) => store.put(key, spool, upload).await,
        }
    }

    /// Reads an object from an offset, which must be before its end.
    ///
    /// # Errors
    ///
    /// [`StoreError`], with [`StoreError::NotFound`] if the object does not exist.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub async fn get(&self, key: &str, from_byte: u64) -> Result<Body, StoreError> {
        match self {
            Self::Dir(store) => store.get(key, from_byte).await.map(Body::Dir),
            Self::S3(store) => store.get(key, from_byte).await.map(Body::S3),
        }
    }

    /// Reads a part of an object with one request, which is not retried. A store that cannot do so answers with everything from
    /// the part's start to the object's end: see [`Body::is_range`]. `version` is the answer's, for the next parts.
    ///
    /// # Errors
    ///
    /// [`StoreError`], with [`StoreError::Replaced`] if the object has another version now. Not every server compares it: the
    /// caller has to, too.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub(crate) async fn get_range(
        &self,
        key: &str,
        range: ByteRange,
        version: Option<&str>,
    ) -> Result<Body, StoreError> {
        match self {
            Self::Dir(store) => store.get(key, range.from).await.map(Body::Dir),
            Self::S3(store) => store.get_range(key, range, version).await.map(Body::S3),
        }
    }

    /// Removes an object, if it exists.
    ///
    /// # Errors
    ///
    /// [`StoreError`] of any kind but [`StoreError::NotFound`].
    ///
    /// # Cancel safety
    ///
    /// The object may be removed or not.
    pub async fn delete(&self, key: &str) -> Result<(), StoreError> {
        match self {
            Self::Dir(store) => store.delete(key).await,
            Self::S3(store) => store.delete(key).await,
        }
    }
}

/// A part of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ByteRange {
    pub(crate) from: u64,
    /// The first byte after it.
    pub(crate) end: u64,
}

/// An object that is being read.
#[derive(Debug)]
pub enum Body {
    /// An object of a directory.
    Dir(dir::DirBody),
    /// An object of a bucket.
    S3(s3::S3Body),
}

impl Body {
    /// The size of the whole object.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        match self {
            Self::Dir(body) => body.total_bytes(),
            Self::S3(body) => body.total_bytes(),
        }
    }

    /// Whether the body ends at the end of the part that was asked for, and not at the end of the object.
    pub(crate) fn is_range(&self) -> bool {
        match self {
            Self::Dir(_) => false,
            Self::S3(body) => body.is_range(),
        }
    }

    /// Differs after the object was replaced; none if the store does not tell.
    pub(crate) fn version(&self) -> Option<&str> {
        match self {
            Self::Dir(_) => None,
            Self::S3(body) => body.version(),
        }
    }

    /// The next piece, never empty; none at the end of the object.
    ///
    /// # Errors
    ///
    /// [`StoreError::Cut`] or [`StoreError::Stalled`]: continue with a new [`Store::get`] from the current offset.
    ///
    /// # Cancel safety
    ///
    /// Safe for S3. For a directory a piece can be lost: drop the body after a cancellation.
    pub async fn next_chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        match self {
            Self::Dir(body) => body.next_chunk().await,
            Self::S3(body) => body.next_chunk().await,
        }
    }
}
