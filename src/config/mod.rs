//! Reads the configuration files and the environment, and returns checked settings.
//!
//! ```text
//! cutover.toml ─┐  fragment: one file, its keys and types checked, with the line of every key
//! conf.d/*.toml ┴► merge: later files win per key ──► Settings: every value checked, defaults filled in
//!                                     environment ──┘
//! ```
//!
//! All values of [`Settings`] are checked: an invalid value is an error with file, line, key, the problem and the allowed
//! values, before any port is bound or session created. Unknown keys are refused, and so are values that could only fail
//! later.
//!
//! This module creates nothing, opens no connection, and reads no other files but those of public keys in `[signatures]`,
//! because nodes must agree on the keys and not on the names of their files. A missing `deploy_to` or an unreadable
//! `token_file` is reported by the code that uses it.
//!
//! The caller passes in the environment, and decides which settings its flags override.

mod api;
mod events;
mod fetch;
mod fragment;
mod globs;
mod merge;
mod notify;
mod settings;
mod signatures;
mod unit;
mod values;

#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};

pub(crate) use api::{ApiSection, PublicUrl, TlsFiles, compare_link};
pub(crate) use events::{EventKind, NotifyKind};
pub(crate) use fetch::FetchSection;
pub(crate) use globs::Globs;
pub(crate) use merge::FilePosition;
pub(crate) use notify::{ChatSettings, ChatUser, NotifySettings};
pub use settings::Settings;
pub(crate) use settings::{CacheSettings, ConsulSection, SecretFile, StoreSection};
pub(crate) use unit::{Hook, UnitSettings};
pub(crate) use values::InvalidValue;
pub(crate) use values::span as time_span;

use merge::Merged;

use crate::kind::HasKind;

/// The path of the configuration if `--config` is not given.
pub(crate) const DEFAULT_PATH: &str = "/etc/cutover/cutover.toml";

/// The directory of drop-ins, next to the file.
const DROP_IN_DIR: &str = "conf.d";

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file, or the directory of drop-ins, could not be read.
    #[error("{} cannot be read", path.display())]
    Unreadable {
        /// The file, or the directory of drop-ins.
        path: PathBuf,
        /// The error of the filesystem.
        #[source]
        source: io::Error,
    },
    /// A file is not TOML.
    #[error("{position}: the file is not valid TOML: {problem}")]
    Syntax {
        /// Where the parser stopped.
        position: FilePosition,
        /// The parser's message.
        problem: String,
    },
    /// A key is unknown, missing, or has a value that is not allowed.
    #[error("{position}: {key}: {problem}")]
    Value {
        /// The position of the key, or of the table that lacks it.
        position: FilePosition,
        /// The key with its tables, in TOML notation: `deploy."shop/production".keep_releases`.
        key: String,
        /// The problem, and the allowed values.
        problem: String,
    },
    /// A variable of the environment has a value that is not allowed, or is missing.
    #[error("environment: {variable}: {problem}")]
    Environment {
        /// The variable, for example `CUTOVER_STORE`.
        variable: &'static str,
        /// The problem, and the allowed values.
        problem: String,
    },
}

impl HasKind for ConfigError {
    fn kind(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "unreadable",
            Self::Syntax { .. } => "syntax",
            Self::Value { .. } => "value",
            Self::Environment { .. } => "environment",
        }
    }
}

impl Settings {
    /// Reads `path` and the drop-ins `conf.d/*.toml` next to it, in the order of their names. The last value of a key wins.
    /// `env` looks up environment variables.
    ///
    /// Blocks on the disk.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] with the first mistake.
    pub fn load(path: &Path, env: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let mut merged = Merged::default();
        merged.add(path, &read(path)?)?;
        for drop_in in drop_ins(path)? {
            merged.add(&drop_in, &read(&drop_in)?)?;
        }
        Self::check(&merged, &env, rustix::process::geteuid())
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })
}

/// The drop-ins next to `path`, sorted by name. Hidden files are ignored: editors leave them behind.
fn drop_ins(path: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let dir = path.parent().unwrap_or(Path::new("")).join(DROP_IN_DIR);
    let unreadable = |source| ConfigError::Unreadable { path: dir.clone(), source };
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(unreadable(e)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let file = entry.map_err(unreadable)?.path();
        let hidden = file.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if file.extension().is_some_and(|extension| extension == "toml") && !hidden {
            found.push(file);
        }
    }
    found.sort();
    Ok(found)
}
