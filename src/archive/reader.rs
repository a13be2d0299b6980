//! A strict reader of tar.
//!
//! The iterator of the tar crate accepts archives that a deploy must refuse: truncated ones, and ones with data after their
//! end. Accepted are the forms that [the module](super) lists. Where programs disagree about an odd header, GNU tar decides:
//! of repeated extension headers the later counts, and pax takes precedence over GNU's long names.
//!
//! The blocks that mark the archive's end may be missing, or one zero block alone: the compressed stream is whole, and what ends
//! within an entry is refused. After the end there may be only zeros.

use std::collections::VecDeque;
use std::io::{BufReader, Read};

use crate::plan::unpack::{Action, Header, Kind, Totals, UnpackPlan};

use super::error::ReadError;
use super::field::{Mtime, decimal, text_of};
use super::header::{BLOCK, Block, RawHeader};
use super::pax::Pax;
use super::sparse::{self, Extent, MAX_EXTENTS};

/// Decompressed bytes decoded at once. Small reads are slow in an inflater.
const DECODE_BYTES: usize = 128 << 10;
/// The longest extension header, in bytes: extended attributes of macOS may have some MB. Read in parts, so that a wrong length
/// costs nothing.
const MAX_EXTENSION_BYTES: u64 = 16 << 20;
/// Global headers in one archive. `git archive` writes one, and concatenated archives a few.
const MAX_GLOBAL_HEADERS: u32 = 1000;
/// The most zeros after the end, in bytes. GNU tar fills its last record: 10 KiB, or as set with `--blocking-factor`.
const MAX_FILL_BYTES: usize = 1 << 20;

/// Reads a whole archive: each entry by the plan, which `apply` carries out.
///
/// # Errors
///
/// [`ReadError`], or the error of `apply`.
pub(crate) fn read<R: Read, E: From<ReadError>>(
    archive: &mut Archive<R>,
    plan: &mut UnpackPlan,
    mut apply: impl FnMut(Action, Content<'_, R>) -> Result<(), E>,
) -> Result<Totals, E> {
    while let Some(entry) = archive.next()? {
        let header =
            Header { path: &entry.path, kind: entry.kind, size: entry.size, mode: entry.mode, target: &entry.target };
        if let Some(action) = plan.entry(&header).map_err(ReadError::from)? {
            apply(action, Content { archive, size: entry.size, mtime: entry.mtime })?;
        }
        archive.skip_content()?;
    }
    Ok(plan.finish().map_err(ReadError::from)?)
}

/// The content of a file, to be read in the order of its parts.
pub(crate) struct Content<'a, R: Read> {
    archive: &'a mut Archive<R>,
    /// The file's length with its holes.
    pub(crate) size: u64,
    pub(crate) mtime: Mtime,
}

impl<R: Read> Content<'_, R> {
    /// The next part that is not a hole.
    pub(crate) fn next_part(&mut self) -> Option<Extent> {
        self.archive.parts.pop_front()
    }

    /// Reads on in the stored bytes.
    pub(crate) fn read(&mut self, buf: &mut [u8]) -> Result<usize, ReadError> {
        self.archive.read(buf)
    }
}

/// One entry's header, merged with the extension headers before it.
#[derive(Debug)]
struct Entry {
    path: Vec<u8>,
    target: Vec<u8>,
    kind: Kind,
    size: u64,
    mode: u32,
    mtime: Mtime,
}

/// The extension headers for the next entry.
#[derive(Default)]
struct Extensions {
    gnu_path: Option<Vec<u8>>,
    gnu_target: Option<Vec<u8>>,
    pax: Pax,
}

/// A tar archive, read in order.
pub(crate) struct Archive<R: Read> {
    input: BufReader<R>,
    /// Content of the current entry that is not read yet.
    remaining: u64,
    /// Bytes that fill its last block.
    padding: usize,
    /// The parts of the current file that are not written yet.
    parts: VecDeque<Extent>,
    /// What global headers say about all entries.
    defaults: Pax,
    globals: u32,
    /// Offset in the decompressed archive, for messages.
    offset: u64,
}

type Result<T, E = ReadError> = std::result::Result<T, E>;

impl<R: Read> Archive<R> {
    pub(crate) fn new(input: R) -> Self {
        Self {
            input: BufReader::with_capacity(DECODE_BYTES, input),
            remaining: 0,
            padding: 0,
            parts: VecDeque::new(),
            defaults: Pax::default(),
            globals: 0,
            offset: 0,
        }
    }

    pub(crate) fn into_inner(self) -> R {
        self.input.into_inner()
    }

    /// The next entry; `None` at the archive's end, which must be the end of the compressed data, too.
    fn next(&mut self) -> Result<Option<Entry>> {
        let mut extensions = Extensions::default();
        let mut has_extension = false;
        loop {
            let Some(header) = self.header()? else {
                return if has_extension { Err(self.damaged("it ends after an extension header")) } else { Ok(None) };
            };
            let size = header.size().ok_or_else(|| self.damaged("a size is not a number"))?;
            match header.flag() {
                b'L' => extensions.gnu_path = self.long_name(size)?,
                b'K' => extensions.gnu_target = self.long_name(size)?,
                // Solaris once wrote X for x.
                b'x' | b'X' => {
                    let content = self.extension(size)?;
                    extensions.pax.merge(&content).map_err(|problem| self.damaged(problem))?;
                }
                b'g' => {
                    self.global(size)?;
                    continue;
                }
                // A volume's label, and ACLs of Solaris: no entries.
                b'V' | b'A' => {
                    self.expect_content(size);
                    self.skip_content()?;
                    continue;
                }
                flag => return self.entry(&header, flag, size, extensions).map(Some),
            }
            has_extension = true;
        }
    }

    /// Reads content of the current entry; 0 at its end.
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        let most = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(buf.len());
        let Some(buf) = buf.get_mut(..most).filter(|buf| !buf.is_empty()) else { return Ok(0) };
        let n = self.input.read(buf).map_err(|e| self.undecodable(&e))?;
        if n == 0 {
            return Err(self.damaged("it is truncated within a file"));
        }
        let n_bytes = u64::try_from(n).unwrap_or(u64::MAX);
        self.remaining = self.remaining.saturating_sub(n_bytes);
        self.offset = self.offset.saturating_add(n_bytes);
        Ok(n)
    }

    /// Reads the rest of the current entry's content and its padding.
    fn skip_content(&mut self) -> Result<()> {
        let mut rest = [0; 4096];
        while self.remaining > 0 {
            self.read(&mut rest)?;
        }
        let mut fill = [0; BLOCK];
        let fill = fill.get_mut(..self.padding).unwrap_or_default();
        self.input.read_exact(fill).map_err(|e| self.undecodable(&e))?;
        self.offset = self.offset.saturating_add(self.padding as u64);
        self.padding = 0;
        self.parts.clear();
        Ok(())
    }

    /// Reads a whole block; `None` at the end of the compressed data.
    fn block(&mut self) -> Result<Option<Block>> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while let Some(rest) = block.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.input.read(rest).map_err(|e| self.undecodable(&e))? {
                0 if filled == 0 => return Ok(None),
                0 => return Err(self.damaged("it is truncated within a block")),
                n => filled += n,
            }
        }
        self.offset = self.offset.saturating_add(BLOCK as u64);
        Ok(Some(block))
    }

    /// The next header; `None` at the archive's end.
    fn header(&mut self) -> Result<Option<RawHeader>> {
        match self.block()? {
            None => Ok(None),
            Some(block) if block == [0; BLOCK] => self.end().map(|()| None),
            Some(block) => match RawHeader::new(&block) {
                None => Err(self.damaged("a header's checksum is wrong")),
                header => Ok(header),
            },
        }
    }

    /// Checks that only zeros follow the first zero block.
    fn end(&mut self) -> Result<()> {
        let mut fill = 0;
        let mut rest = [0; 4096];
        loop {
            let n = self.input.read(&mut rest).map_err(|e| self.undecodable(&e))?;
            if n == 0 {
                return Ok(());
            }
            fill += n;
            if rest.get(..n).is_none_or(|read| read.iter().any(|&byte| byte != 0)) {
                return Err(self.damaged("there is data after the end; pack one archive (`tar -A` joins two)"));
            }
            if fill > MAX_FILL_BYTES {
                return Err(self.damaged("there is more than 1 MiB of zeros after the end"));
            }
        }
    }

    /// Reads the content of an extension header.
    fn extension(&mut self, size: u64) -> Result<Vec<u8>> {
        if size > MAX_EXTENSION_BYTES {
            let problem = format!("an extension header has {size} bytes; the limit is {MAX_EXTENSION_BYTES}");
            return Err(self.damaged(&problem));
        }
        self.expect_content(size);
        let mut content = Vec::new();
        let mut part = [0; 4096];
        while self.remaining > 0 {
            let n = self.read(&mut part)?;
            content.extend_from_slice(part.get(..n).unwrap_or_default());
        }
        self.skip_content()?;
        Ok(content)
    }

    fn expect_content(&mut self, size: u64) {
        self.remaining = size;
        self.padding = usize::try_from(size.wrapping_neg() % BLOCK as u64).unwrap_or(0);
    }

    /// Reads a GNU long name; `None` for an empty one.
    fn long_name(&mut self, size: u64) -> Result<Option<Vec<u8>>> {
        let content = self.extension(size)?;
        let name = text_of(&content);
        Ok((!name.is_empty()).then(|| name.to_vec()))
    }

    fn global(&mut self, size: u64) -> Result<()> {
        self.globals += 1;
        if self.globals > MAX_GLOBAL_HEADERS {
            return Err(self.damaged("it has more than 1,000 global headers"));
        }
        let content = self.extension(size)?;
        self.defaults.merge_global(&content).map_err(|problem| self.damaged(problem))
    }

    fn entry(&mut self, header: &RawHeader, flag: u8, size: u64, extensions: Extensions) -> Result<Entry> {
        let Extensions { gnu_path, gnu_target, pax } = extensions;
        let kind = kind_of(flag);
        // Some programs give links and directories a size, but no content.
        let has_content = !matches!(kind, Kind::Directory | Kind::Hardlink | Kind::Symlink) || flag == b'D';
        let stored = if has_content { pax.size.unwrap_or(size) } else { 0 };
        let mode = header.mode().ok_or_else(|| self.damaged("a mode is not a number"))?;
        let mtime = match pax.mtime.or(self.defaults.mtime) {
            Some(mtime) => mtime,
            None => header.mtime().ok_or_else(|| self.damaged("a time is not a number"))?,
        };
        let mut file_size = stored;
        if kind == Kind::File && pax.sparse.is_sparse() {
            file_size = self.pax_sparse(&pax, stored)?;
        } else if flag == b'S' {
            file_size = self.gnu_sparse(header, stored)?;
        } else {
            self.expect_content(stored);
            self.parts = VecDeque::from([Extent { offset: 0, len: stored }]);
        }
        if kind != Kind::File {
            file_size = 0;
        }
        Ok(Entry {
            path: pax.sparse.name.or(pax.path).or(gnu_path).unwrap_or_else(|| header.path()),
            target: pax.target.or(gnu_target).unwrap_or_else(|| header.target()),
            kind,
            size: file_size,
            mode,
            mtime,
        })
    }

    /// Reads the map of GNU tar's own form, and returns the file's length.
    fn gnu_sparse(&mut self, header: &RawHeader, stored: u64) -> Result<u64> {
        let real_size =
            sparse::real_size(header).ok_or_else(|| self.damaged("the size of a sparse file is not a number"))?;
        let mut extents = Vec::new();
        sparse::add_fields(sparse::header_fields(header), &mut extents).map_err(|problem| self.damaged(problem))?;
        let mut goes_on = sparse::goes_on(header);
        while goes_on {
            let block = self.block()?.ok_or_else(|| self.damaged("it is truncated within a sparse file's map"))?;
            let (fields, rest) = block.split_at(21 * 24);
            sparse::add_fields(fields, &mut extents).map_err(|problem| self.damaged(problem))?;
            self.check_extents(extents.len())?;
            goes_on = rest.first() != Some(&0);
        }
        self.expect_content(stored);
        self.set_parts(extents, real_size, stored)
    }

    /// Reads the map of a form of pax, and returns the file's length.
    fn pax_sparse(&mut self, pax: &Pax, stored: u64) -> Result<u64> {
        let real_size = pax.sparse.real_size.ok_or_else(|| self.damaged("a sparse file has no size"))?;
        self.expect_content(stored);
        self.check_extents(pax.sparse.extents.len())?;
        if pax.sparse.is_version_1() {
            let extents = self.map_before_data()?;
            return self.set_parts(extents, real_size, self.remaining);
        }
        if pax.sparse.major.is_some_and(|major| major != 0) {
            return Err(self.damaged("a sparse file has an unknown form; pack it without `--sparse`"));
        }
        self.set_parts(pax.sparse.extents.clone(), real_size, stored)
    }

    /// Reads the map of version 1.0: the number of parts, then their offsets and lengths, one a line, in whole blocks.
    fn map_before_data(&mut self) -> Result<Vec<Extent>> {
        let mut text = Vec::new();
        let count = self.map_number(&mut text)?;
        self.check_extents(usize::try_from(count).unwrap_or(usize::MAX))?;
        let mut extents = Vec::new();
        for _ in 0..count {
            extents.push(Extent { offset: self.map_number(&mut text)?, len: self.map_number(&mut text)? });
        }
        Ok(extents)
    }

    /// Takes the next line from `text`, and reads another block if it has none.
    fn map_number(&mut self, text: &mut Vec<u8>) -> Result<u64> {
        let malformed = "the map of a sparse file is malformed";
        loop {
            if let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                let number = text.get(..end).filter(|digits| !digits.is_empty()).and_then(decimal);
                text.drain(..=end);
                return number.ok_or_else(|| self.damaged(malformed));
            }
            if text.len() >= BLOCK || self.remaining < BLOCK as u64 {
                return Err(self.damaged(malformed));
            }
            let mut block = [0; BLOCK];
            let mut filled = 0;
            while let Some(rest) = block.get_mut(filled..).filter(|rest| !rest.is_empty()) {
                filled += self.read(rest)?;
            }
            text.extend_from_slice(&block);
        }
    }

    fn check_extents(&self, count: usize) -> Result<()> {
        let problem = "a sparse file has more than 1,048,576 parts; pack it without `--sparse`";
        if count > MAX_EXTENTS { Err(self.damaged(problem)) } else { Ok(()) }
    }

    fn set_parts(&mut self, extents: Vec<Extent>, real_size: u64, stored: u64) -> Result<u64> {
        self.parts = sparse::checked(extents, real_size, stored).map_err(|problem| self.damaged(problem))?.into();
        Ok(real_size)
    }

    fn damaged(&self, problem: &str) -> ReadError {
        ReadError::Damaged(format!("{problem} (near byte {} of the tar)", self.offset))
    }

    fn undecodable(&self, error: &std::io::Error) -> ReadError {
        self.damaged(&format!("it is truncated or damaged: {error}"))
    }
}

/// The kind of a type flag. `7` is a contiguous file, `D` a directory of GNU tar's incremental archives with a list of its
/// names as content, which is not used.
fn kind_of(flag: u8) -> Kind {
    match flag {
        0 | b'0' | b'7' | b'S' => Kind::File,
        b'1' => Kind::Hardlink,
        b'2' => Kind::Symlink,
        b'5' | b'D' => Kind::Directory,
        other => Kind::Other(other),
    }
}
