//! Collects a manifest from the entries of an archive, in their order.
//!
//! Entries are what the plan of the nodes makes of them: clean paths and final modes. Of a path that comes twice the later
//! entry counts, as it does when the archive is unpacked.

use std::io::Read;

use sha2::Digest;

use super::{Entry, Manifest};
use crate::archive::{Content, ReadError};
use crate::plan::unpack::{Action, Make};

/// Bytes read from a file at once.
const READ_BYTES: usize = 64 << 10;

/// Collects a manifest.
#[derive(Debug)]
pub(in crate::artifact) struct Builder {
    manifest: Manifest,
    buffer: Vec<u8>,
}

impl Default for Builder {
    fn default() -> Self {
        Self { manifest: Manifest::default(), buffer: vec![0; READ_BYTES] }
    }
}

/// The digest of a file whose content passes by.
#[derive(Debug, Default)]
struct FileDigest {
    hasher: sha2::Sha256,
    bytes: u64,
}

impl FileDigest {
    fn add(&mut self, piece: &[u8]) {
        self.hasher.update(piece);
        self.bytes += piece.len() as u64;
    }

    /// Adds a hole up to the offset `to`.
    fn add_zeros(&mut self, to: u64) {
        const ZEROS: [u8; 4096] = [0; 4096];
        while self.bytes < to {
            let piece = usize::try_from(to - self.bytes).map_or(ZEROS.len(), |left| left.min(ZEROS.len()));
            self.add(ZEROS.get(..piece).unwrap_or(&ZEROS));
        }
    }
}

impl Builder {
    /// Adds an entry of an archive, whose content is read.
    ///
    /// # Errors
    ///
    /// As the archive's.
    pub(in crate::artifact) fn add<R: Read>(
        &mut self,
        action: Action,
        content: Content<'_, R>,
    ) -> Result<(), ReadError> {
        let Action { path, make, .. } = action;
        match make {
            Make::Directory { .. } => self.directory(&path),
            Make::File { mode } => {
                let digest = self.digest_of(content)?;
                self.file(&path, mode, digest.bytes, digest.hasher.finalize().into());
            }
            Make::Hardlink { target } => self.hard_link(&path, &target),
            Make::Symlink { target } => self.link(&path, &target),
        }
        Ok(())
    }

    fn digest_of<R: Read>(&mut self, mut content: Content<'_, R>) -> Result<FileDigest, ReadError> {
        let mut digest = FileDigest::default();
        while let Some(part) = content.next_part() {
            digest.add_zeros(part.offset);
            let mut left = part.len;
            while left > 0 {
                let most = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
                let read = content.read(self.buffer.get_mut(..most).unwrap_or_default())?;
                digest.add(self.buffer.get(..read).unwrap_or_default());
                left = left.saturating_sub(read as u64);
            }
        }
        digest.add_zeros(content.size);
        Ok(digest)
    }

    /// Adds a regular file whose content was read to its end.
    pub(in crate::artifact) fn file(&mut self, path: &[u8], mode: u32, bytes: u64, sha256: [u8; 32]) {
        let entry = Entry::File { bytes, mode, sha256 };
        self.manifest.entries.insert(path.to_owned(), entry);
    }

    /// Adds a symbolic link.
    pub(in crate::artifact) fn link(&mut self, path: &[u8], target: &[u8]) {
        self.manifest.entries.insert(path.to_owned(), Entry::Link { target: target.to_owned() });
    }

    /// Adds another name of an earlier file or link. Ignored if there is none, which the plan refuses.
    pub(super) fn hard_link(&mut self, path: &[u8], target: &[u8]) {
        if let Some(entry) = self.manifest.entries.get(target).cloned() {
            self.manifest.entries.insert(path.to_owned(), entry);
        }
    }

    /// Adds a directory, which a manifest leaves out: it only replaces an earlier entry.
    pub(in crate::artifact) fn directory(&mut self, path: &[u8]) {
        self.manifest.entries.remove(path);
    }

    /// The manifest of all entries so far.
    #[must_use]
    pub(in crate::artifact) fn finish(self) -> Manifest {
        self.manifest
    }
}
