//! Where artifacts are kept: an S3 bucket, or a directory that every machine can see.
//!
//! A store gives sizes and bytes by key, from any byte on, and takes whole files. It needs no listing, versioning,
//! tags, or conditional writes, since not every server that speaks S3 has them: that an artifact is the right one is
//! for its digest in the build record to say, and an object that was replaced while it was read shows there.
//!
//! Every call ends: connecting, waiting for an answer, and standing still in the middle each have a limit
//! ([`Limits`]), and calls are tried again a bounded number of times where that can help.

mod dir;
mod error;
mod known;
mod s3;
mod s3_error;
mod small;
mod url;

use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;

use crate::artifact::name::object_key;
use crate::protocol::ids::{App, ArtifactName};
use crate::protocol::record::ArchiveFormat;

pub use dir::DirStore;
pub use error::{Class, StoreError};
pub use s3::{S3Credentials, S3Store};
pub use url::{StoreUrl, StoreUrlError};

/// What the config says about S3 beside the URL. Credentials are not here: they come from where the AWS tools take
/// them (environment, profile, container or instance role).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct S3Settings {
    /// The bucket's region; else from the environment or the instance.
    pub region: Option<String>,
    /// Another server than AWS, for example `https://s3.example.com`; else `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`.
    pub endpoint: Option<String>,
    /// Puts the bucket into the path instead of the host's name, which most other servers want.
    pub force_path_style: bool,
    /// How long things may take.
    pub limits: Limits,
}

/// How long a store may take, and how often it is asked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// For a connection, TLS included.
    pub connect: Duration,
    /// For an answer to begin, and for every next piece of a body to come; also from a directory, whose mount can hang.
    pub stall: Duration,
    /// How often one call is made at most, the first time included, when its failure may pass.
    pub attempts: u32,
    /// The pause before the second attempt; it doubles from there, with jitter.
    pub backoff: Duration,
    /// Size of a part of a multipart upload; files up to this size go up in one request. S3 takes no less than 5 MiB.
    pub part_bytes: u64,
}

impl Default for Limits {
    /// Connecting takes a round trip or three, so 5 s is long. 30 s without a byte is past every pause that TCP mends
    /// by itself. Four attempts from half a second ride out a restart of a server behind a balancer (about 4 s), and
    /// more is for the caller, who sees whether bytes came meanwhile. Parts of 16 MiB lose little when one fails.
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            stall: Duration::from_secs(30),
            attempts: 4,
            backoff: Duration::from_millis(500),
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
    /// Opens the store; looks up region and credentials for S3, but does not speak to the server yet.
    ///
    /// # Errors
    ///
    /// [`StoreError::Settings`] when no region is known.
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

    /// The key of an artifact's archive in this store.
    #[must_use]
    pub fn key(&self, app: &App, artifact: &ArtifactName, format: ArchiveFormat) -> String {
        match self {
            Self::Dir(_) => object_key("", app, artifact, format),
            Self::S3(store) => object_key(store.prefix(), app, artifact, format),
        }
    }

    /// What an operator knows an object by: `s3://bucket/key`, or its path.
    #[must_use]
    pub fn place(&self, key: &str) -> String {
        match self {
            Self::Dir(store) => store.place(key),
            Self::S3(store) => store.place(key),
        }
    }

    /// The size of an object in bytes; none where there is no such object.
    ///
    /// # Errors
    ///
    /// [`StoreError`] of any kind but [`StoreError::NotFound`].
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub async fn head(&self, key: &str) -> Result<Option<u64>, StoreError> {
        match self {
            Self::Dir(store) => store.head(key).await,
            Self::S3(store) => store.head(key).await,
        }
    }

    /// Puts a file's content at `key`, over what may be there; nobody ever sees a part of it. `progress` counts the
    /// bytes that are up.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; what was at `key` before is still there then, unless the connection broke at the very end. What
    /// was uploaded is removed again.
    ///
    /// # Cancel safety
    ///
    /// Nothing appears at `key`, but the parts of a multipart upload stay in the bucket until its lifecycle rule
    /// `AbortIncompleteMultipartUpload` removes them, and a directory's temporary file is written to its end.
    pub async fn put_file(&self, key: &str, file: &Path, progress: &AtomicU64) -> Result<(), StoreError> {
        match self {
            Self::Dir(store) => store.put_file(key, file, progress).await,
            Self::S3(store) => store.put_file(key, file, progress).await,
        }
    }

    /// Reads an object from a byte on, which must be before its end.
    ///
    /// # Errors
    ///
    /// [`StoreError`], with [`StoreError::NotFound`] where there is no such object.
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

    /// Removes an object; one that is not there is removed already.
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

/// An object that is being read.
#[derive(Debug)]
pub enum Body {
    /// From a directory.
    Dir(dir::DirBody),
    /// From a bucket.
    S3(s3::S3Body),
}

impl Body {
    /// Size of the whole object, and not only of what is left of it to read.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        match self {
            Self::Dir(body) => body.total_bytes(),
            Self::S3(body) => body.total_bytes(),
        }
    }

    /// The next piece, never an empty one; none at the object's end.
    ///
    /// # Errors
    ///
    /// [`StoreError::Cut`] or [`StoreError::Stalled`]: go on with a new [`Store::get`] from where this stopped.
    ///
    /// # Cancel safety
    ///
    /// Safe for S3. From a directory a piece can be lost; drop the body then.
    pub async fn next_chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        match self {
            Self::Dir(body) => body.next_chunk().await,
            Self::S3(body) => body.next_chunk().await,
        }
    }
}
