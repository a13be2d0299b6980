//! Checks that a store is mounted and the right one. In an unmounted or a wrong store every object is missing.

use super::{Store, StoreError};
use crate::protocol::ids::App;

impl Store {
    /// Whether missing objects of an app are really missing. A directory store contains a directory for the app since its
    /// first build; an unmounted mount point does not. A missing bucket gives [`StoreError::NoRoot`].
    ///
    /// # Errors
    ///
    /// As [`Store::head`].
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub(crate) async fn has_app(&self, app: &App) -> Result<bool, StoreError> {
        match self {
            Self::Dir(store) => Ok(store.stat(app.as_str()).await?.is_some()),
            Self::S3(_) => Ok(true),
        }
    }

    /// Whether the store contains any of these objects, all of which were uploaded before. Callers that remove records of
    /// missing objects must check this first: if all objects are missing, the store is probably the wrong one.
    ///
    /// # Errors
    ///
    /// As [`Store::head`].
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub(crate) async fn has_any(&self, keys: &[String]) -> Result<bool, StoreError> {
        for key in keys {
            if self.head(key).await?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
