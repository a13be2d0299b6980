//! Passes the bytes of an archive on in their order, as they become ready.

use std::io::{self, Read};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::part_file::PartFile;
use super::{FetchError, PIECE_BYTES};

pub(super) enum Piece {
    Bytes(Bytes),
    /// The archive is complete. Without this, the end of the channel is an error.
    End,
}

/// The archive's bytes as they arrive, for a thread that may block.
#[derive(Debug)]
pub struct FetchReader {
    received: mpsc::Receiver<Piece>,
    piece: Bytes,
    ended: bool,
}

impl FetchReader {
    pub(super) fn new(received: mpsc::Receiver<Piece>) -> Self {
        Self { received, piece: Bytes::new(), ended: false }
    }
}

impl Read for FetchReader {
    /// Fails with [`io::ErrorKind::ConnectionAborted`] if the download fails; [`super::FetchTask::finish`] returns the reason.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() && !self.ended {
            match self.received.blocking_recv() {
                Some(Piece::Bytes(bytes)) => self.piece = bytes,
                Some(Piece::End) => self.ended = true,
                None => return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the download failed")),
            }
        }
        let read = self.piece.len().min(buffer.len());
        self.piece.split_to(read).copy_to_slice(buffer.get_mut(..read).unwrap_or_default());
        Ok(read)
    }
}

/// Reads an archive from its file as it becomes longer, and sends it.
#[derive(Debug)]
pub(super) struct Feed {
    pub(super) file: Arc<PartFile>,
    pub(super) pieces: mpsc::Sender<Piece>,
    /// The object, for errors.
    pub(super) place: String,
}

impl Feed {
    /// Sends every byte, but not [`Piece::End`].
    pub(super) async fn run(&self) -> Result<(), FetchError> {
        let (mut ready, mut sent) = (self.file.ready(), 0);
        while sent < self.file.size_bytes() {
            let until = tokio::select! {
                until = ready.wait_for(|until| *until > sent) => *until.map_err(|_| self.stopped())?,
                () = self.pieces.closed() => return Err(self.abandoned()),
            };
            let length = usize::try_from(until - sent).unwrap_or(usize::MAX).min(PIECE_BYTES);
            let file = Arc::clone(&self.file);
            let piece = spawn_blocking(move || file.read(sent, length)).await.map_err(|_| self.stopped())??;
            self.send(Piece::Bytes(piece.into())).await?;
            sent += length as u64;
        }
        Ok(())
    }

    pub(super) async fn send(&self, piece: Piece) -> Result<(), FetchError> {
        self.pieces.send(piece).await.map_err(|_| self.abandoned())
    }

    fn abandoned(&self) -> FetchError {
        FetchError::Abandoned { place: self.place.clone() }
    }

    fn stopped(&self) -> FetchError {
        FetchError::Stopped { place: self.place.clone() }
    }
}
