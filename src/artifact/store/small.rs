//! Small objects that fit into memory, other than archives of builds.

use std::io::Write as _;

use super::{Store, StoreError, Upload};

impl Store {
    /// The key of an object at `rest` below the store's prefix.
    #[must_use]
    pub(crate) fn key_below(&self, rest: &str) -> String {
        match self {
            Self::S3(store) if !store.prefix().is_empty() => format!("{}/{rest}", store.prefix()),
            Self::S3(_) | Self::Dir(_) => rest.to_owned(),
        }
    }

    /// Stores `bytes` at `key` through a temporary file, replacing an existing object.
    ///
    /// # Errors
    ///
    /// As [`Store::put_file`], and [`StoreError::Disk`] if the temporary file cannot be written.
    ///
    /// # Cancel safety
    ///
    /// As [`Store::put_file`].
    pub(crate) async fn put_small(&self, key: &str, bytes: Vec<u8>, upload: &Upload) -> Result<(), StoreError> {
        let dir = std::env::temp_dir();
        let disk = |source| StoreError::Disk { action: "write a temporary file in", path: dir.clone(), source };
        let written = tokio::task::spawn_blocking(move || {
            let mut file = tempfile::NamedTempFile::new()?;
            file.write_all(&bytes)?;
            file.flush()?;
            Ok(file)
        });
        let file = written.await.map_err(std::io::Error::other).and_then(|file| file).map_err(disk)?;
        self.put_file(key, file.path(), upload).await
    }

    /// Reads a whole object of at most `limit` bytes. A longer object is truncated; the caller detects that by its digest.
    ///
    /// # Errors
    ///
    /// As [`Store::get`] and [`super::Body::next_chunk`].
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub(crate) async fn get_small(&self, key: &str, limit: usize) -> Result<Vec<u8>, StoreError> {
        // S3 refuses a read from the end of an object, so an empty object is handled here.
        if self.head(key).await? == Some(0) {
            return Ok(Vec::new());
        }
        let mut body = self.get(key, 0).await?;
        let mut bytes = Vec::new();
        while let Some(chunk) = body.next_chunk().await? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > limit {
                bytes.truncate(limit);
                break;
            }
        }
        Ok(bytes)
    }
}
