//! Whether a store is the one that things were put into: an empty mount point answers as well as a mounted store, and
//! says of everything that it is not there.

use super::{Store, StoreError};
use crate::protocol::ids::App;

impl Store {
    /// Whether what this store says it does not have of an app may be believed: a directory has one for the app, from the
    /// app's first build on, and a mount point without its mount has none. A bucket that is not there says so itself, with
    /// [`StoreError::NoRoot`].
    ///
    /// # Errors
    ///
    /// As [`Store::head`].
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub async fn has_app(&self, app: &App) -> Result<bool, StoreError> {
        match self {
            Self::Dir(store) => Ok(store.head(app.as_str()).await?.is_some()),
            Self::S3(_) => Ok(true),
        }
    }

    /// Whether any of these objects is there, which were put into the store: to be asked before anything is removed from
    /// elsewhere because the store has it, or because it has not.
    ///
    /// # Errors
    ///
    /// As [`Store::head`].
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub async fn shows_any(&self, known: &[String]) -> Result<bool, StoreError> {
        for key in known {
            if self.head(key).await?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
