//! Checks that a store is the right one: an unmounted mount point looks like a store in which every object is missing.

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
            Self::Dir(store) => Ok(store.head(app.as_str()).await?.is_some()),
            Self::S3(_) => Ok(true),
        }
    }

    /// Whether the store contains any of these objects, which are known to be stored. Check this before removing anything
    /// elsewhere because of what the store contains.
    ///
    /// # Errors
    ///
    /// As [`Store::head`].
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub(crate) async fn shows_any(&self, known: &[String]) -> Result<bool, StoreError> {
        for key in known {
            if self.head(key).await?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
