//! Loads any text as settings. What is wrong is an error with a message, never a panic.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use cutover::config::Settings;
use libfuzzer_sys::{Corpus, fuzz_target};
use tempfile::TempDir;

static DIR: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a directory can be made"));
static FILE: LazyLock<PathBuf> = LazyLock::new(|| DIR.path().join("cutover.toml"));

fuzz_target!(|input: &[u8]| -> Corpus {
    if std::str::from_utf8(input).is_err() {
        return Corpus::Reject;
    }
    std::fs::write(&*FILE, input).expect("the file can be written");
    if let Err(error) = Settings::load(&FILE, |_| None) {
        assert!(!error.to_string().is_empty(), "an error says what is wrong");
    }
    Corpus::Keep
});
