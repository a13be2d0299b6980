//! Files and environment become checked settings.
//!
//! ```text
//! cutover.toml ─┐  fragment: one file, its keys and types checked, with the line of every key
//! conf.d/*.toml ┴► merge: later files win per key ──► Settings: every value checked, defaults filled in
//!                                     environment ──┘
//! ```
//!
//! What a [`Settings`] holds has been checked: a wrong value is an error that names file, line, key, what is wrong
//! and what is allowed, before any port is bound or session created. Refused: unknown keys, and a value that could
//! only fail later.
//!
//! Not done here: nothing is created, connected to, or looked up on disk besides the configuration's own files. So
//! `deploy_to` may be missing or a symbolic link, and a `token_file` may be unreadable; who uses them says so.
//!
//! The caller passes the environment, and decides what a flag overrides.

mod api;
mod events;
mod fragment;
mod globs;
mod merge;
mod notify;
mod settings;
mod unit;
mod values;

#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};

pub use api::{ApiSection, ProxySettings, PublicUrl, TlsFiles, UserSettings, compare_link};
pub use events::{EventKind, NotifyKind};
pub use globs::Globs;
pub use merge::Place;
pub use notify::{ChatSettings, ChatUser, NotifySettings};
pub use settings::{CacheSettings, ConsulSection, DEFAULT_CACHE_BUDGET_BYTES, SecretFile, Settings, StoreSection};
pub use unit::{Hook, Hooks, UnitSettings};
pub use values::InvalidValue;
pub(crate) use values::span as time_span;

use merge::Merged;

/// Where the agent's packages put the configuration.
pub const DEFAULT_PATH: &str = "/etc/cutover/cutover.toml";

/// The directory of drop-ins, beside the file.
const DROP_IN_DIR: &str = "conf.d";

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file, or the directory of drop-ins, could not be read.
    #[error("{} cannot be read", path.display())]
    Unreadable {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is not TOML.
    #[error("{place}: is not TOML: {problem}")]
    Syntax {
        /// Where reading stopped.
        place: Place,
        /// What the parser says.
        problem: String,
    },
    /// A key is unknown, missing, or has a value that is not allowed.
    #[error("{place}: {key}: {problem}")]
    Value {
        /// Where the key, or the table that misses it, stands.
        place: Place,
        /// The key with its tables, as TOML writes it: `deploy."shop/production".keep_releases`.
        key: String,
        /// What is wrong, and what is allowed.
        problem: String,
    },
    /// A variable of the environment has a value that is not allowed, or is missing.
    #[error("environment: {variable}: {problem}")]
    Environment {
        /// Its name.
        variable: &'static str,
        /// What is wrong, and what is allowed.
        problem: String,
    },
}

impl ConfigError {
    /// A word for metrics and programs, of a fixed set.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "unreadable",
            Self::Syntax { .. } => "syntax",
            Self::Value { .. } => "value",
            Self::Environment { .. } => "environment",
        }
    }
}

impl Settings {
    /// Reads `path` and the drop-ins `conf.d/*.toml` beside it, in the order of their names; of a key that stands in
    /// several, the last wins. `env` answers for the environment.
    ///
    /// Blocks on the disk.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] with the first thing that is wrong.
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

/// The drop-ins beside `path`, sorted by name. Hidden files are editors' leftovers, and no drop-ins.
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
