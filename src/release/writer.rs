//! Writer threads, which create the regular files while the caller's thread decompresses.
//!
//! Work is passed in a fixed number of blocks of a fixed size, which are returned after writing. That bounds memory and open
//! directories for every archive. One writer gets all blocks of a file, in order. It also adds the file to the list, with its digest
//! if the list has digests.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::{Scope, ScopedJoinHandle};

use rustix::fs::{Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, fchmod, futimens, openat};
use sha2::{Digest, Sha256};

use crate::archive::Mtime;
use crate::plan::unpack::{shown, split};
use crate::plan::verify::{FileTime, Listed};

use super::control::Control;
use super::list::ListWriter;
use super::unpack_error::UnpackError;

/// Content in one block, in bytes. Four of them for a writer make 1 MiB.
const BLOCK_BYTES: usize = 256 << 10;
/// Blocks of one writer.
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

/// The channels of one writer thread: full blocks go there, and come back free.
struct Lane {
    full: SyncSender<Block>,
    free: Receiver<Block>,
    /// Blocks that [`Writers::drain`] took back.
    idle: Vec<Block>,
}

impl Lane {
    /// A free block; waits for one.
    fn block(&mut self) -> Result<Block, Stopped> {
        match self.idle.pop() {
            Some(block) => Ok(block),
            None => self.free.recv().map_err(|_| Stopped),
        }
    }
}

pub(super) struct Writers<'scope, 'a> {
    lanes: Vec<Lane>,
    threads: Vec<ScopedJoinHandle<'scope, Result<(), UnpackError>>>,
    /// The lane that gets the current block.
    at: usize,
    block: Option<Block>,
    failed: &'a AtomicBool,
}

/// A writer has failed; [`Writers::finish`] returns its error.
#[derive(Debug)]
pub(super) struct Stopped;

impl<'scope, 'a> Writers<'scope, 'a> {
    pub(super) fn start<'env>(
        scope: &'scope Scope<'scope, 'env>,
        count: usize,
        modes: Modes,
        control: &'a Control,
        failed: &'a AtomicBool,
        list: Option<&'a ListWriter>,
    ) -> io::Result<Self>
    where
        'a: 'scope,
    {
        let mut writers = Self { lanes: Vec::new(), threads: Vec::new(), at: 0, block: None, failed };
        for _ in 0..count.max(1) {
            let (full, work) = sync_channel(BLOCKS);
            let (done, free) = sync_channel(BLOCKS);
            for _ in 0..BLOCKS {
                let block = Block { data: vec![0; BLOCK_BYTES], filled: 0, files: 0, ops: Vec::new() };
                // Cannot fail: the channel has room for all blocks, and the receiver exists.
                drop(done.try_send(block));
            }
            let writer = Writer { modes, control, failed, list, open: None };
            let thread = std::thread::Builder::new().name("unpack-writer".to_owned());
            writers.threads.push(thread.spawn_scoped(scope, move || writer.run(&work, &done))?);
            writers.lanes.push(Lane { full, free, idle: Vec::new() });
        }
        Ok(writers)
    }

    pub(super) fn open(&mut self, file: NewFile) -> Result<(), Stopped> {
        if self.block.as_ref().is_some_and(|block| block.files == BLOCK_FILES || block.filled == BLOCK_BYTES) {
            self.flush()?;
        }
        let block = match self.block.take() {
            Some(block) => block,
            None => self.any_block()?,
        };
        let block = self.block.insert(block);
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

    /// The block of the current file.
    fn current(&mut self) -> Result<&mut Block, Stopped> {
        if self.block.is_none() {
            // Earlier content of the file was sent to this lane.
            self.block = Some(self.lanes.get_mut(self.at).ok_or(Stopped)?.block()?);
        }
        self.block.as_mut().ok_or(Stopped)
    }

    /// Waits until every file so far is written. Costs nothing if no file came since the last time.
    pub(super) fn drain(&mut self) -> Result<(), Stopped> {
        self.flush()?;
        for lane in &mut self.lanes {
            while lane.idle.len() < BLOCKS {
                lane.idle.push(lane.free.recv().map_err(|_| Stopped)?);
            }
        }
        if self.failed.load(Ordering::Relaxed) { Err(Stopped) } else { Ok(()) }
    }

    /// Writes the rest, waits for all writers, and returns the first error.
    pub(super) fn finish(mut self) -> Result<(), UnpackError> {
        // If sending fails, the thread has ended with an error, which is returned below.
        let sent = self.flush();
        self.lanes.clear();
        let mut outcome = Ok(());
        for thread in self.threads {
            let ended = thread.join().unwrap_or(Err(UnpackError::Writer));
            outcome = outcome.and(ended);
        }
        outcome.and(sent.map_err(|Stopped| UnpackError::Writer))
    }

    fn flush(&mut self) -> Result<(), Stopped> {
        let Some(block) = self.block.take() else { return Ok(()) };
        let lane = self.lanes.get(self.at).ok_or(Stopped)?;
        lane.full.send(block).map_err(|_| Stopped)?;
        if self.failed.load(Ordering::Relaxed) { Err(Stopped) } else { Ok(()) }
    }

    /// A free block of any lane, starting with the current one. If there is none, waits for the next lane's.
    fn any_block(&mut self) -> Result<Block, Stopped> {
        let count = self.lanes.len();
        let next = (self.at + 1) % count.max(1);
        for step in 0..count {
            let at = (next + step) % count;
            let lane = self.lanes.get_mut(at).ok_or(Stopped)?;
            match lane.idle.pop().map_or_else(|| lane.free.try_recv(), Ok) {
                Ok(block) => {
                    self.at = at;
                    return Ok(block);
                }
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => return Err(Stopped),
            }
        }
        self.at = next;
        self.lanes.get_mut(next).ok_or(Stopped)?.block()
    }
}

/// A writer thread's own state.
struct Writer<'a> {
    modes: Modes,
    control: &'a Control,
    failed: &'a AtomicBool,
    list: Option<&'a ListWriter>,
    open: Option<OpenFile>,
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
            block.ops.clear();
            block.filled = 0;
            block.files = 0;
            // An error means that the caller no longer takes blocks back. Remaining work is still done.
            drop(done.send(block));
        }
        outcome
    }

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
                    if let Some(list) = self.list {
                        list.add(&new.path, &listed(&new, digest));
                    }
                }
            }
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
