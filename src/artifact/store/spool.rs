//! A file that is uploaded, perhaps while it is still being written.
//!
//! The archive passes through a file, not through memory: an upload that breaks off sends a part again, and a line that is
//! slower than the packing needs no limit for what waits.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tokio::sync::watch;

/// A file to upload.
#[derive(Clone, Debug)]
pub struct Spool {
    path: PathBuf,
    most_bytes: u64,
    written: watch::Receiver<Written>,
}

/// How much of a file is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) bytes: u64,
    pub(super) is_whole: bool,
}

/// The writer gave up.
#[derive(Debug)]
pub(super) struct Abandoned;

impl Spool {
    /// A file that is complete.
    ///
    /// # Errors
    ///
    /// The file's.
    pub(super) async fn whole(path: &Path) -> io::Result<Self> {
        let bytes = tokio::fs::metadata(path).await?.len();
        let (_, written) = watch::channel(Written { bytes, is_whole: true });
        Ok(Self { path: path.to_owned(), most_bytes: bytes, written })
    }

    /// A file that the returned writer fills with at most about `most_bytes`. If the writer is dropped before
    /// [`SpoolWriter::finish`], the upload fails.
    #[must_use]
    pub fn growing(path: &Path, file: File, most_bytes: u64) -> (Self, SpoolWriter) {
        let (progress, written) = watch::channel(Written::default());
        (Self { path: path.to_owned(), most_bytes, written }, SpoolWriter { file, progress })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes written so far.
    #[must_use]
    pub fn written_bytes(&self) -> u64 {
        self.written.borrow().bytes
    }

    /// The most bytes that the file will have, for the size of parts.
    pub(super) const fn most_bytes(&self) -> u64 {
        self.most_bytes
    }

    /// Waits until at least `bytes` are written, or all.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub(super) async fn reaches(&mut self, bytes: u64) -> Result<Written, Abandoned> {
        let written = self.written.wait_for(|written| written.is_whole || written.bytes >= bytes).await;
        written.map(|written| *written).map_err(|_| Abandoned)
    }
}

/// Writes a file that is uploaded meanwhile.
#[derive(Debug)]
pub struct SpoolWriter {
    file: File,
    progress: watch::Sender<Written>,
}

impl SpoolWriter {
    /// Marks the file as complete.
    pub fn finish(self) {
        self.progress.send_modify(|written| written.is_whole = true);
    }
}

impl Write for SpoolWriter {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.file.write(buffer)?;
        self.progress.send_modify(|it| it.bytes += written as u64);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
