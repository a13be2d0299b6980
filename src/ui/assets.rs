//! The files that pages load: a style sheet, a script, the library that it uses, and an icon. All are in the binary.
//!
//! Each name contains the digest of the content, so that browsers can cache a file forever.

use std::io::Write as _;
use std::sync::LazyLock;

use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest as _, Sha256};

/// How many hex digits of the digest a name has.
const DIGITS: usize = 12;

/// One file, in plain form and compressed.
#[derive(Debug)]
pub(crate) struct Asset {
    /// The `Content-Type`.
    pub(crate) kind: &'static str,
    pub(crate) plain: &'static [u8],
    /// The content in gzip; empty if compression failed.
    pub(crate) gzip: Vec<u8>,
    name: String,
}

impl Asset {
    fn new(stem: &str, extension: &str, kind: &'static str, plain: &'static [u8]) -> Self {
        let digest = hex::encode(Sha256::digest(plain));
        let name = format!("{stem}-{}.{extension}", digest.get(..DIGITS).unwrap_or(&digest));
        Self { kind, plain, gzip: packed(plain, Compression::best()), name }
    }

    /// The name, which contains the digest. It is also the entity tag.
    #[must_use]
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    #[must_use]
    pub(crate) fn address(&self) -> String {
        format!("/assets/{}", self.name)
    }
}

/// Compresses with gzip; empty on failure, which does not happen in memory.
#[must_use]
pub(crate) fn packed(bytes: &[u8], level: Compression) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), level);
    encoder.write_all(bytes).and_then(|()| encoder.finish()).unwrap_or_default()
}

pub(crate) static STYLE: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("cutover", "css", "text/css; charset=utf-8", include_bytes!("assets/cutover.css")));

pub(crate) static SCRIPT: LazyLock<Asset> = LazyLock::new(|| {
    Asset::new("cutover", "js", "text/javascript; charset=utf-8", include_bytes!("assets/cutover.js"))
});

/// idiomorph 0.8.0, which merges a new document into the shown one. Its licence, 0BSD, is in the file beside it.
pub(crate) static MORPH: LazyLock<Asset> = LazyLock::new(|| {
    Asset::new("idiomorph", "js", "text/javascript; charset=utf-8", include_bytes!("assets/idiomorph-0.8.0.min.js"))
});

/// The picture in the browser's tab.
pub(crate) static ICON: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("icon", "svg", "image/svg+xml", include_bytes!("assets/icon.svg")));

#[must_use]
pub(crate) fn named(name: &str) -> Option<&'static Asset> {
    [&STYLE, &SCRIPT, &MORPH, &ICON].into_iter().map(|asset| &**asset).find(|asset| asset.name == name)
}
