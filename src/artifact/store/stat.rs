//! Whether an object is the archive that a record describes.
//!
//! Three answers, from cheap to certain: its size; the digest that S3 keeps as metadata since the upload; and the digest of the
//! bytes themselves. Metadata does not prove the bytes: another tool can replace an object and keep it. Entity tags are no
//! digests on every server, so they only show that an object changed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::Digest as _;

use super::{Class, Store, StoreError};
use crate::protocol::ids::Sha256;
use crate::protocol::record::{Build, Damage};

/// The name of an archive's digest in an object's metadata: `x-amz-meta-sha256`.
const ARCHIVE_METADATA: &str = "sha256";

/// The name of a tree's digest in an object's metadata: `x-amz-meta-tree`.
const TREE_METADATA: &str = "tree";

/// How often reading an object is tried if it breaks off.
const TRIES: u32 = 4;

/// What the uploader of an object told the store about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// The digest of its bytes.
    Archive(Sha256),
    /// The digest of the tree in it: the upload began before its last byte was known.
    Tree(Sha256),
}

impl Told {
    pub(super) fn in_metadata(metadata: &HashMap<String, String>) -> Option<Self> {
        let digest = |name| metadata.get(name)?.parse().ok();
        digest(ARCHIVE_METADATA).map(Self::Archive).or_else(|| digest(TREE_METADATA).map(Self::Tree))
    }

    pub(super) const fn metadata_name(&self) -> &'static str {
        match self {
            Self::Archive(_) => ARCHIVE_METADATA,
            Self::Tree(_) => TREE_METADATA,
        }
    }

    /// The digest, of what it is.
    #[must_use]
    pub const fn digest(&self) -> &Sha256 {
        match self {
            Self::Archive(digest) | Self::Tree(digest) => digest,
        }
    }

    /// Whether a record says the same; none if it says nothing about the tree.
    #[must_use]
    pub(crate) fn is_of(&self, build: &Build) -> Option<bool> {
        match self {
            Self::Archive(digest) => Some(*digest == build.sha256),
            Self::Tree(digest) => build.tree.as_ref().map(|tree| tree == digest),
        }
    }
}

/// What the store tells of an object without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Its size.
    pub bytes: u64,
    /// What its uploader said.
    pub told: Option<Told>,
    /// Differs after the object was replaced or changed.
    pub version: String,
}

impl Stat {
    /// How the object differs from the archive of a build, as far as this tells; none if it does not.
    #[must_use]
    pub(crate) fn damage(&self, build: &Build) -> Option<Damage> {
        if self.bytes < build.packed_bytes {
            return Some(Damage::Cut);
        }
        let is_other = self.told.as_ref().and_then(|told| told.is_of(build)) == Some(false);
        (self.bytes > build.packed_bytes || is_other).then_some(Damage::Altered)
    }
}

/// The state of a build's archive in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// There is no object.
    Missing,
    /// There is another object than the record describes.
    Damaged(Damage),
    /// Every byte is as recorded.
    Intact,
}

impl Stored {
    /// What is wrong, in one word; none if nothing is.
    #[must_use]
    pub(crate) const fn flaw(self) -> Option<&'static str> {
        match self {
            Self::Missing => Some("missing"),
            Self::Damaged(damage) => Some(damage.as_str()),
            Self::Intact => None,
        }
    }
}

impl Store {
    /// The size of an object in bytes; none if it does not exist.
    ///
    /// # Errors
    ///
    /// [`StoreError`] of any kind but [`StoreError::NotFound`].
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub async fn head(&self, key: &str) -> Result<Option<u64>, StoreError> {
        Ok(self.stat(key).await?.map(|stat| stat.bytes))
    }

    /// What the store tells of an object; none if it does not exist.
    ///
    /// # Errors
    ///
    /// As [`Store::head`].
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub async fn stat(&self, key: &str) -> Result<Option<Stat>, StoreError> {
        match self {
            Self::Dir(store) => store.stat(key).await,
            Self::S3(store) => store.stat(key).await,
        }
    }

    /// Compares the object at `key` with a build's record: its size, and then every byte, because no other way detects a
    /// changed byte on every S3 server. `read_bytes` counts the bytes read.
    ///
    /// # Errors
    ///
    /// As [`Store::head`].
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub async fn compare(&self, key: &str, build: &Build, read_bytes: &AtomicU64) -> Result<Stored, StoreError> {
        let Some(stat) = self.stat(key).await? else { return Ok(Stored::Missing) };
        if let Some(damage) = stat.damage(build) {
            return Ok(Stored::Damaged(damage));
        }
        let is_same =
            self.digest(key, build.packed_bytes, read_bytes).await?.is_some_and(|it| it == build.sha256.as_str());
        Ok(if is_same { Stored::Intact } else { Stored::Damaged(Damage::Altered) })
    }

    /// The digest of an object's bytes, in hex; none if it has no longer this size.
    async fn digest(&self, key: &str, size_bytes: u64, read_bytes: &AtomicU64) -> Result<Option<String>, StoreError> {
        let (mut hasher, mut done, mut tries) = (sha2::Sha256::new(), 0, 1);
        while done < size_bytes {
            match self.digest_from(key, size_bytes, &mut done, &mut hasher, read_bytes).await {
                Ok(true) => {}
                Ok(false) => return Ok(None),
                Err(error) if error.class() == Class::Transient && tries < TRIES => tries += 1,
                Err(error) => return Err(error),
            }
        }
        Ok(Some(hex::encode(hasher.finalize())))
    }

    /// Reads on from `done` to the end or the first error; false if the object has another size.
    async fn digest_from(
        &self,
        key: &str,
        size_bytes: u64,
        done: &mut u64,
        hasher: &mut sha2::Sha256,
        read_bytes: &AtomicU64,
    ) -> Result<bool, StoreError> {
        let mut body = self.get(key, *done).await?;
        if body.total_bytes() != size_bytes {
            return Ok(false);
        }
        while let Some(chunk) = body.next_chunk().await? {
            hasher.update(&chunk);
            *done += chunk.len() as u64;
            read_bytes.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        }
        if *done < size_bytes {
            let place = self.place(key);
            return Err(StoreError::Cut { place, source: "the answer ended early".into() });
        }
        Ok(*done == size_bytes)
    }
}
