//! What pages load: one style sheet, one script with the library that it uses, one picture. All in the binary.
//!
//! The name of each holds the digest of its content, so browsers keep it for good and never an old one.

use std::io::Write as _;
use std::sync::LazyLock;

use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest as _, Sha256};

/// How many hex digits of the digest a name has.
const DIGITS: usize = 12;

/// One file.
#[derive(Debug)]
pub struct Asset {
    /// What it is, as `Content-Type` says it.
    pub kind: &'static str,
    /// As it is.
    pub plain: &'static [u8],
    /// The same in gzip; empty where that could not be made.
    pub gzip: Vec<u8>,
    name: String,
}

impl Asset {
    fn new(stem: &str, extension: &str, kind: &'static str, plain: &'static [u8]) -> Self {
        let digest = hex::encode(Sha256::digest(plain));
        let name = format!("{stem}-{}.{extension}", digest.get(..DIGITS).unwrap_or(&digest));
        Self { kind, plain, gzip: packed(plain, Compression::best()), name }
    }

    /// Its name, with its digest: also what it is known by when a browser asks whether it has changed.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> String {
        format!("/assets/{}", self.name)
    }
}

/// `bytes` in gzip; empty where that fails, which it does not in memory.
#[must_use]
pub fn packed(bytes: &[u8], level: Compression) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), level);
    encoder.write_all(bytes).and_then(|()| encoder.finish()).unwrap_or_default()
}

/// The style sheet.
pub static STYLE: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("cutover", "css", "text/css; charset=utf-8", include_bytes!("assets/cutover.css")));

/// The script.
pub static SCRIPT: LazyLock<Asset> = LazyLock::new(|| {
    Asset::new("cutover", "js", "text/javascript; charset=utf-8", include_bytes!("assets/cutover.js"))
});

/// idiomorph 0.8.0, which brings a new document into the one that is shown. 0BSD, see its licence beside it.
pub static MORPH: LazyLock<Asset> = LazyLock::new(|| {
    Asset::new("idiomorph", "js", "text/javascript; charset=utf-8", include_bytes!("assets/idiomorph-0.8.0.min.js"))
});

/// The picture in the browser's tab.
pub static ICON: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("icon", "svg", "image/svg+xml", include_bytes!("assets/icon.svg")));

/// The asset of this name.
#[must_use]
pub fn named(name: &str) -> Option<&'static Asset> {
    [&STYLE, &SCRIPT, &MORPH, &ICON].into_iter().map(|asset| &**asset).find(|asset| asset.name == name)
}
