//! The section `[signatures]`: the public keys that builds are checked by.

use std::io::Read as _;
use std::path::Path;

use super::fragment::SignaturesFragment;
use super::merge::Merged;
use super::{ConfigError, values};
use crate::signing::PublicKey;

/// The most bytes of a key file that are read. A public key takes about 120.
const MAX_KEY_FILE_BYTES: u64 = 4096;

/// Reads the keys, inline or from files, and sorts them: their order does not matter.
pub(super) fn check(merged: &Merged, fragment: &SignaturesFragment) -> Result<Vec<PublicKey>, ConfigError> {
    let mut keys: Vec<PublicKey> = Vec::new();
    for (index, text) in fragment.keys.iter().enumerate() {
        let error = |problem: String| merged.error(&["signatures", "keys", &format!("[{index}]")], problem);
        let key = if text.starts_with('/') {
            let path = values::absolute(text).map_err(|invalid| error(invalid.to_string()))?;
            let shown = path.display();
            let text = read(&path).map_err(|failed| error(format!("{shown} cannot be read: {failed}")))?;
            PublicKey::parse(&text).map_err(|invalid| error(format!("{shown} {invalid}")))?
        } else {
            // The text is not shown, because it may be a secret key.
            PublicKey::parse(text).map_err(|invalid| error(invalid.to_string()))?
        };
        if keys.contains(&key) {
            return Err(error(format!("key {} is pinned twice; remove one of them", key.id())));
        }
        keys.push(key);
    }
    keys.sort_unstable();
    Ok(keys)
}

fn read(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(MAX_KEY_FILE_BYTES).read_to_string(&mut text)?;
    Ok(text)
}
