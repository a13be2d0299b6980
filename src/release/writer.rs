//! Creates the regular files of an unpack: a thread of its own writes while the caller's thread decompresses.
//!
//! Work is passed in a fixed number of blocks of a fixed size, which are returned after writing. That bounds memory and open
//! directories for every archive. If all blocks wait for the writer, the caller's thread carries out its block itself: with many
//! small files both threads create files, and with large ones the caller only decompresses. A block that begins within a file
//! is always the writer's, so that each file is written by one thread, in order. The thread that wrote a file also adds it to the
//! list, with its digest if the list has digests.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Scope, ScopedJoinHandle};

use rustix::fs::{Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, fchmod, futimens, openat};
use sha2::{Digest, Sha256};

use crate::archive::Mtime;
use crate::plan::unpack::{shown, split};
use crate::plan::verify::{FileTime, Listed};

use super::control::Control;
use super::list::ListWriter;
use super::unpack_error::UnpackError;

/// Content in one block, in bytes. Four of them make 1 MiB.
const BLOCK_BYTES: usize = 256 << 10;
/// All blocks.
const BLOCKS: usize = 4;
/// Files in one block. Each may keep another directory open, and 4 blocks of 32 files are far below 1024 descriptors.
const BLOCK_FILES: usize = 32;

/// A regular file to create.
#[derive(Debug)]
pub(super) struct NewFile {
    /// The open directory to create it in.
    pub(super) dir: Arc<OwnedFd>,
    /// Its path from the release's root; the last component is the name.
    pub(super) path: Vec<u8>,
    pub(super) mode: u32,
    pub(super) mtime: Mtime,
    /// Its length in bytes, holes included.
    pub(super) bytes: u64,
}

/// Whether modes must be set explicitly, because the umask or the directory's default ACL removes bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Modes {
    /// The umask is 022 or less: other bits than those are as created.
    AsCreated,
    Set,
}

impl Modes {
    /// Whether what was created with `mode` may have another one.
    pub(super) fn need_setting(self, mode: u32) -> bool {
        match self {
            Self::AsCreated => mode & 0o022 != 0,
            Self::Set => true,
        }
    }
}

#[derive(Debug)]
enum Op {
    Open(NewFile),
    Write(Range<usize>),
    /// The next content begins at this offset; a hole is before it.
    Seek(u64),
    Close(End),
}

/// Where a file ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    /// At its last content.
    Written,
    /// After a hole: its length in bytes.
    At(u64),
}

#[derive(Debug)]
struct Block {
    data: Vec<u8>,
    filled: usize,
    files: usize,
    ops: Vec<Op>,
}

impl Block {
    fn new() -> Self {
        Self { data: vec![0; BLOCK_BYTES], filled: 0, files: 0, ops: Vec::new() }
    }

    fn is_full(&self) -> bool {
        self.files == BLOCK_FILES || self.filled == BLOCK_BYTES
    }

    /// Whether no earlier block has a part of its first file.
    fn begins_with_a_file(&self) -> bool {
        matches!(self.ops.first(), Some(Op::Open(_)))
    }

    fn clear(&mut self) {
        self.ops.clear();
        self.filled = 0;
        self.files = 0;
    }
}

/// The writing of files, as the decompressing thread sees it.
pub(super) struct Files<'scope, 'a> {
    thread: ScopedJoinHandle<'scope, Result<(), UnpackError>>,
    /// To the thread.
    full: SyncSender<Block>,
    /// Back from it.
    free: Receiver<Block>,
    /// Blocks that [`Files::drain`] took back.
    idle: Vec<Block>,
    /// The one that is being filled.
    block: Option<Block>,
    /// Writes on the caller's thread.
    own: Writer<'a>,
    /// Why that failed.
    failure: Option<UnpackError>,
}

/// A file could not be written; [`Files::finish`] returns the error.
#[derive(Debug)]
pub(super) struct Stopped;

impl<'scope, 'a> Files<'scope, 'a> {
    /// # Errors
    ///
    /// The thread cannot be started.
    pub(super) fn start<'env>(
        scope: &'scope Scope<'scope, 'env>,
        modes: Modes,
        control: &'a Control,
        failed: &'a AtomicBool,
        list: Option<&'a ListWriter>,
    ) -> io::Result<Self>
    where
        'a: 'scope,
    {
        let (full, work) = sync_channel(BLOCKS);
        let (done, free) = sync_channel(BLOCKS);
        let new = || Writer { modes, control, failed, list, open: None, written: Vec::new() };
        let writer = new();
        let thread = std::thread::Builder::new().name("unpack-writer".to_owned());
        let thread = thread.spawn_scoped(scope, move || writer.run(&work, &done))?;
        let idle = (0..BLOCKS).map(|_| Block::new()).collect();
        Ok(Self { thread, full, free, idle, block: None, own: new(), failure: None })
    }

    pub(super) fn open(&mut self, file: NewFile) -> Result<(), Stopped> {
        if self.block.as_ref().is_some_and(Block::is_full) {
            self.pass_on()?;
        }
        let block = self.current()?;
        block.files += 1;
        block.ops.push(Op::Open(file));
        Ok(())
    }

    /// A buffer for content of the current file; never empty.
    pub(super) fn room(&mut self) -> Result<&mut [u8], Stopped> {
        if self.block.as_ref().is_some_and(|block| block.filled == BLOCK_BYTES) {
            self.flush()?;
        }
        let block = self.current()?;
        block.data.get_mut(block.filled..).ok_or(Stopped)
    }

    /// Marks the first `bytes` of the buffer as filled.
    pub(super) fn filled(&mut self, bytes: usize) -> Result<(), Stopped> {
        let block = self.block.as_mut().ok_or(Stopped)?;
        let end = block.filled.saturating_add(bytes).min(BLOCK_BYTES);
        block.ops.push(Op::Write(block.filled..end));
        block.filled = end;
        Ok(())
    }

    /// Leaves a hole up to `offset`.
    pub(super) fn seek(&mut self, offset: u64) -> Result<(), Stopped> {
        self.current()?.ops.push(Op::Seek(offset));
        Ok(())
    }

    pub(super) fn close(&mut self, end: End) -> Result<(), Stopped> {
        self.current()?.ops.push(Op::Close(end));
        Ok(())
    }

    /// The block that is being filled; waits for one.
    fn current(&mut self) -> Result<&mut Block, Stopped> {
        let block = match self.block.take().or_else(|| self.idle.pop()) {
            Some(block) => block,
            None => self.free.recv().map_err(|_| Stopped)?,
        };
        Ok(self.block.insert(block))
    }

    /// Passes a block of whole files to the thread, or carries it out here if the thread has all others.
    fn pass_on(&mut self) -> Result<(), Stopped> {
        let next = self.idle.pop().or_else(|| self.free.try_recv().ok());
        if let Some(next) = next {
            self.flush()?;
            self.block = Some(next);
            return Ok(());
        }
        match self.block.as_mut().filter(|block| block.begins_with_a_file()) {
            Some(block) => self.own.apply(block).map_err(|error| {
                self.own.failed.store(true, Ordering::Relaxed);
                self.failure = Some(error);
                Stopped
            }),
            None => self.flush(),
        }
    }

    /// Waits until every file so far is written. Costs nothing if no file came since the last time.
    pub(super) fn drain(&mut self) -> Result<(), Stopped> {
        self.flush()?;
        while self.idle.len() < BLOCKS {
            self.idle.push(self.free.recv().map_err(|_| Stopped)?);
        }
        if self.own.failed.load(Ordering::Relaxed) { Err(Stopped) } else { Ok(()) }
    }

    /// Writes the rest, waits for the thread, and returns the first error.
    pub(super) fn finish(mut self) -> Result<(), UnpackError> {
        // If sending fails, the thread has ended with an error, which is returned below.
        let sent = self.flush();
        drop(self.full);
        let ended = self.thread.join().unwrap_or(Err(UnpackError::Writer));
        let own = self.failure.map_or(Ok(()), Err);
        own.and(ended).and(sent.map_err(|Stopped| UnpackError::Writer))
    }

    fn flush(&mut self) -> Result<(), Stopped> {
        let Some(block) = self.block.take() else { return Ok(()) };
        self.full.send(block).map_err(|_| Stopped)?;
        if self.own.failed.load(Ordering::Relaxed) { Err(Stopped) } else { Ok(()) }
    }
}

/// Writes files, one after another.
struct Writer<'a> {
    modes: Modes,
    control: &'a Control,
    failed: &'a AtomicBool,
    list: Option<&'a ListWriter>,
    open: Option<OpenFile>,
    /// The files of this block, for the list.
    written: Vec<(Vec<u8>, Listed)>,
}

struct OpenFile {
    file: File,
    new: NewFile,
    /// Of the content so far, if the list has digests.
    digest: Option<Digesting>,
}

impl Writer<'_> {
    /// Works until there are no more blocks. After an error, blocks are returned unwritten, so that the caller never waits.
    fn run(mut self, work: &Receiver<Block>, done: &SyncSender<Block>) -> Result<(), UnpackError> {
        let mut outcome = Ok(());
        for mut block in work {
            if outcome.is_ok() && !self.failed.load(Ordering::Relaxed) {
                outcome = self.apply(&mut block);
                if outcome.is_err() {
                    self.failed.store(true, Ordering::Relaxed);
                }
            }
            block.clear();
            // An error means that the caller no longer takes blocks back. Remaining work is still done.
            drop(done.send(block));
        }
        outcome
    }

    /// Carries out a block, and clears it.
    fn apply(&mut self, block: &mut Block) -> Result<(), UnpackError> {
        let Block { data, ops, .. } = block;
        for op in ops.drain(..) {
            match op {
                Op::Open(new) => {
                    let file = create(&new).map_err(|source| at(&new, source))?;
                    let digest = self.list.filter(|list| list.has_digests()).map(|_| Digesting::default());
                    self.open = Some(OpenFile { file, new, digest });
                }
                Op::Write(range) => {
                    let Some(OpenFile { file, new, digest }) = &mut self.open else { return Err(UnpackError::Writer) };
                    let content = data.get(range).unwrap_or_default();
                    file.write_all(content).map_err(|source| at(new, source))?;
                    if let Some(digest) = digest {
                        digest.update(content);
                    }
                    let bytes = content.len().try_into().unwrap_or(u64::MAX);
                    self.control.unpacked_bytes.fetch_add(bytes, Ordering::Relaxed);
                }
                Op::Seek(offset) => {
                    let Some(OpenFile { file, new, digest }) = &mut self.open else { return Err(UnpackError::Writer) };
                    file.seek(SeekFrom::Start(offset)).map_err(|source| at(new, source))?;
                    if let Some(digest) = digest {
                        digest.hole_to(offset);
                    }
                }
                Op::Close(end) => {
                    let Some(OpenFile { file, new, digest }) = self.open.take() else {
                        return Err(UnpackError::Writer);
                    };
                    self.complete(&file, &new, end).map_err(|source| at(&new, source))?;
                    if self.list.is_some() {
                        let listed = listed(&new, digest);
                        self.written.push((new.path, listed));
                    }
                }
            }
        }
        block.clear();
        if let Some(list) = self.list {
            list.add_all(self.written.drain(..));
        }
        Ok(())
    }

    fn complete(&self, file: &File, new: &NewFile, end: End) -> io::Result<()> {
        if let End::At(length) = end {
            file.set_len(length)?;
        }
        if self.modes.need_setting(new.mode) {
            fchmod(file, Mode::from_raw_mode(new.mode))?;
        }
        if new.mode & 0o600 == 0 {
            // The agent cannot open it again to sync it: see `super::durable`.
            file.sync_all()?;
        }
        let FileTime { secs, nanos } = file_time(new.mtime);
        let written = Timespec { tv_sec: secs, tv_nsec: nanos.into() };
        let unread = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        Ok(futimens(file, &Timestamps { last_access: unread, last_modification: written })?)
    }
}

/// The digest of a file that is being written.
#[derive(Default)]
struct Digesting {
    sha256: Sha256,
    bytes: u64,
}

impl Digesting {
    fn update(&mut self, content: &[u8]) {
        self.sha256.update(content);
        self.bytes = self.bytes.saturating_add(content.len().try_into().unwrap_or(u64::MAX));
    }

    /// Holes read as zeros.
    fn hole_to(&mut self, offset: u64) {
        const ZEROS: [u8; 4096] = [0; 4096];
        while self.bytes < offset {
            let left = usize::try_from(offset - self.bytes).unwrap_or(usize::MAX).min(ZEROS.len());
            self.update(ZEROS.get(..left).unwrap_or_default());
        }
    }
}

fn listed(new: &NewFile, digest: Option<Digesting>) -> Listed {
    let sha256 = digest.map(|mut digest| {
        digest.hole_to(new.bytes);
        digest.sha256.finalize().into()
    });
    Listed::File { mode: new.mode, bytes: new.bytes, written: file_time(new.mtime), sha256 }
}

fn file_time(mtime: Mtime) -> FileTime {
    FileTime { secs: mtime.secs.try_into().unwrap_or(0), nanos: mtime.nanos }
}

fn create(new: &NewFile) -> io::Result<File> {
    let name = split(&new.path).name;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(openat(&*new.dir, name, flags, Mode::from_raw_mode(new.mode))?))
}

fn at(new: &NewFile, source: io::Error) -> UnpackError {
    UnpackError::Write { path: shown(&new.path), source }
}
