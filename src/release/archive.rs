//! A strict reader of tar.
//!
//! The iterator of the tar crate accepts archives that a deploy must refuse: truncated ones, ones with data after their end,
//! and ones with two different sizes or names for an entry. Only its header type is used, for the layout of a block;
//! everything between blocks is read here. Accepted are v7, ustar, GNU (long names, large numbers) and
//! pax headers (`path`, `linkpath`, `mtime`, `size` if it agrees with the header; what describes owners and other
//! times is ignored), and pax global headers that hold only a `comment`, as `git archive` writes. Refused are sparse files, file
//! capabilities, names in two forms at once, and anything after the end but zeros.

use std::borrow::Cow;
use std::io::{BufReader, Read};

use tar::{EntryType, Header};

use crate::plan::unpack::{Kind, MAX_PATH_BYTES};

use super::tar_field::{Mtime, decimal, is_refused, number, pax_records, pax_time, text_of};
use super::unpack_error::UnpackError;

const BLOCK: usize = 512;
/// Decompressed bytes decoded at once. Small reads are slow in an inflater.
const DECODE_BYTES: usize = 128 << 10;
/// The longest pax header, in bytes: two paths of 4096, and 64 KiB for each of a few extended attributes.
const MAX_PAX_BYTES: u64 = 256 << 10;
/// Global headers in one archive. `git archive` writes one; concatenated archives have a few.
const MAX_GLOBAL_HEADERS: u32 = 16;
/// The most zeros after the end, in bytes. GNU tar fills its last record: 10 KiB, or as set with `--blocking-factor`.
const MAX_FILL_BYTES: usize = 1 << 20;

/// One entry's header, merged with the extension headers before it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) path: Vec<u8>,
    pub(super) target: Vec<u8>,
    pub(super) kind: Kind,
    pub(super) size: u64,
    pub(super) mode: u32,
    pub(super) mtime: Mtime,
}

/// The extension headers for the next entry.
#[derive(Default)]
struct Extensions {
    gnu_path: Option<Vec<u8>>,
    gnu_target: Option<Vec<u8>>,
    pax: Option<Pax>,
}

#[derive(Default)]
struct Pax {
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    size: Option<u64>,
    mtime: Option<Mtime>,
}

/// A tar archive, read in order.
pub(super) struct Archive<R: Read> {
    input: BufReader<R>,
    /// Content of the current entry that is not read yet.
    remaining: u64,
    /// Bytes that fill its last block.
    padding: usize,
    globals: u32,
    /// Offset in the decompressed archive, for messages.
    offset: u64,
}

type Result<T> = std::result::Result<T, UnpackError>;

impl<R: Read> Archive<R> {
    pub(super) fn new(input: R) -> Self {
        let input = BufReader::with_capacity(DECODE_BYTES, input);
        Self { input, remaining: 0, padding: 0, globals: 0, offset: 0 }
    }

    pub(super) fn into_inner(self) -> R {
        self.input.into_inner()
    }

    /// The next entry; `None` at the archive's end, which must be the end of the compressed data, too.
    ///
    /// The caller must have read the previous entry's content with [`Archive::read`].
    pub(super) fn next(&mut self) -> Result<Option<Entry>> {
        let mut extensions = Extensions::default();
        let mut has_extension = false;
        loop {
            let Some(header) = self.header()? else {
                return if has_extension { Err(self.damaged("it ends after an extension header")) } else { Ok(None) };
            };
            let size = number(&header.as_old().size).ok_or_else(|| self.damaged("a size is not a number"))?;
            match header.entry_type() {
                EntryType::GNULongName => self.long_name(size, &mut extensions.gnu_path)?,
                EntryType::GNULongLink => self.long_name(size, &mut extensions.gnu_target)?,
                EntryType::XHeader if extensions.pax.is_some() => {
                    return Err(self.damaged("an entry has two pax headers"));
                }
                EntryType::XHeader => extensions.pax = Some(self.pax(size)?),
                EntryType::XGlobalHeader if has_extension => {
                    return Err(self.damaged("a global header separates an extension header from its entry"));
                }
                EntryType::XGlobalHeader => {
                    self.global(size)?;
                    continue;
                }
                kind => return self.entry(&header, kind, size, extensions).map(Some),
            }
            has_extension = true;
        }
    }

    /// Reads content of the current entry; 0 at its end.
    pub(super) fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
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

    /// Reads a whole block; `None` at the end of the compressed data.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>> {
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
    fn header(&mut self) -> Result<Option<Header>> {
        if self.remaining > 0 {
            return Err(self.damaged("an entry's content was not read"));
        }
        let mut fill = [0; BLOCK];
        let fill = fill.get_mut(..self.padding).unwrap_or_default();
        self.input.read_exact(fill).map_err(|e| self.undecodable(&e))?;
        self.offset = self.offset.saturating_add(self.padding as u64);
        self.padding = 0;
        let block = self.block()?.ok_or_else(|| self.damaged("the blocks that mark its end are missing"))?;
        if block == [0; BLOCK] {
            self.end()?;
            return Ok(None);
        }
        let header = Header::from_byte_slice(&block).clone();
        let sum = block.iter().enumerate().map(|(at, byte)| match at {
            148..156 => u32::from(b' '), // The checksum is computed with blanks in its own field.
            _ => u32::from(*byte),
        });
        if number(&header.as_old().cksum) != Some(sum.sum::<u32>().into()) {
            return Err(self.damaged("a header's checksum is wrong"));
        }
        let known = header.as_ustar().is_some() || header.as_gnu().is_some();
        if !known && block.get(257..265) != Some(&[0; 8][..]) {
            return Err(self.damaged("a header has an unknown format (known: v7, ustar, GNU, pax)"));
        }
        Ok(Some(header))
    }

    /// Checks the end after the first zero block: a second zero block, then only zeros.
    fn end(&mut self) -> Result<()> {
        if self.block()? != Some([0; BLOCK]) {
            return Err(self.damaged("its end is marked by one zero block instead of two"));
        }
        let mut fill = 0;
        let mut rest = [0; 4096];
        loop {
            let n = self.input.read(&mut rest).map_err(|e| self.undecodable(&e))?;
            if n == 0 {
                return Ok(());
            }
            fill += n;
            if rest.get(..n).is_none_or(|read| read.iter().any(|&byte| byte != 0)) {
                return Err(self.damaged("there is data after the end"));
            }
            if fill > MAX_FILL_BYTES {
                return Err(self.damaged("there is more than 1 MiB of zeros after the end"));
            }
        }
    }

    /// Reads the content of an extension header.
    fn extension(&mut self, size: u64, most: u64) -> Result<Vec<u8>> {
        if size > most {
            return Err(self.damaged(&format!("an extension header has {size} bytes; the limit is {most}")));
        }
        self.expect_content(size);
        let mut content = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
        let mut filled = 0;
        while let Some(rest) = content.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            filled += self.read(rest)?;
        }
        Ok(content)
    }

    fn expect_content(&mut self, size: u64) {
        self.remaining = size;
        self.padding = usize::try_from(size.next_multiple_of(BLOCK as u64) - size).unwrap_or(0);
    }

    /// Reads a GNU long name: text up to a NUL, with only NULs after it.
    fn long_name(&mut self, size: u64, into: &mut Option<Vec<u8>>) -> Result<()> {
        let content = self.extension(size, MAX_PATH_BYTES as u64 + 1)?;
        let name = text_of(&content).ok_or_else(|| self.damaged("a long name has data after its end"))?;
        if name.is_empty() || into.replace(name.to_vec()).is_some() {
            return Err(self.damaged("a long name is empty or repeated"));
        }
        Ok(())
    }

    fn pax(&mut self, size: u64) -> Result<Pax> {
        let content = self.extension(size, MAX_PAX_BYTES)?;
        let mut pax = Pax::default();
        for (key, value) in pax_records(&content).map_err(|problem| self.damaged(problem))? {
            let again = match key {
                b"path" => pax.path.replace(self.pax_name(value)?).is_some(),
                b"linkpath" => pax.target.replace(self.pax_name(value)?).is_some(),
                b"size" => {
                    let size = decimal(value).ok_or_else(|| self.damaged("a pax size is not a number"))?;
                    pax.size.replace(size).is_some()
                }
                b"mtime" => {
                    let mtime = pax_time(value).ok_or_else(|| self.damaged("a pax time is not a number"))?;
                    pax.mtime.replace(mtime).is_some()
                }
                key if is_refused(key) => {
                    let key = String::from_utf8_lossy(key).into_owned();
                    return Err(self.damaged(&format!(
                        "an entry has {key:?}; sparse files and file capabilities are not supported"
                    )));
                }
                _ => false,
            };
            if again {
                return Err(self.damaged("a pax header has the same key twice"));
            }
        }
        Ok(pax)
    }

    fn pax_name(&self, value: &[u8]) -> Result<Vec<u8>> {
        if value.is_empty() || value.contains(&0) {
            return Err(self.damaged("a pax name is empty or contains a NUL"));
        }
        Ok(value.to_vec())
    }

    fn global(&mut self, size: u64) -> Result<()> {
        self.globals += 1;
        if self.globals > MAX_GLOBAL_HEADERS {
            return Err(self.damaged("it has more than 16 global headers"));
        }
        let content = self.extension(size, MAX_PAX_BYTES)?;
        let records = pax_records(&content).map_err(|problem| self.damaged(problem))?;
        if records.iter().any(|(key, _)| *key != b"comment") {
            return Err(self.damaged("a global header contains more than a comment"));
        }
        Ok(())
    }

    fn entry(&mut self, header: &Header, kind: EntryType, size: u64, extensions: Extensions) -> Result<Entry> {
        let Extensions { gnu_path, gnu_target, pax } = extensions;
        if pax.is_some() && (gnu_path.is_some() || gnu_target.is_some()) {
            return Err(self.damaged("an entry has both a pax header and a GNU long name"));
        }
        let pax = pax.unwrap_or_default();
        if pax.size.is_some_and(|pax_size| pax_size != size) {
            return Err(self.damaged("an entry has different sizes in its header and its pax header"));
        }
        let old = header.as_old();
        let prefix = header.as_ustar().map_or(&[][..], |ustar| &ustar.prefix);
        if [&old.name[..], &old.linkname, prefix].iter().any(|field| text_of(field).is_none()) {
            return Err(self.damaged("a name has data after its end"));
        }
        let number_of = |field| number(field).ok_or_else(|| self.damaged("a mode or time is not a number"));
        let mode = u32::try_from(number_of(&old.mode)? & 0o7777).unwrap_or(0);
        let mtime = match pax.mtime {
            Some(mtime) => mtime,
            // A negative base-256 number means a time before 1970.
            None if old.mtime.first() == Some(&0xff) => Mtime::default(),
            None => Mtime { secs: number_of(&old.mtime)?, nanos: 0 },
        };
        self.expect_content(size);
        Ok(Entry {
            path: pax.path.or(gnu_path).unwrap_or_else(|| header.path_bytes().into_owned()),
            target: pax
                .target
                .or(gnu_target)
                .unwrap_or_else(|| header.link_name_bytes().map_or_else(Vec::new, Cow::into_owned)),
            kind: kind_of(kind),
            size,
            mode,
            mtime,
        })
    }

    fn damaged(&self, problem: &str) -> UnpackError {
        UnpackError::Archive(format!("{problem} (near byte {} of the tar)", self.offset))
    }

    fn undecodable(&self, error: &std::io::Error) -> UnpackError {
        self.damaged(&format!("it is truncated or damaged: {error}"))
    }
}

fn kind_of(kind: EntryType) -> Kind {
    match kind {
        EntryType::Regular => Kind::File,
        EntryType::Directory => Kind::Directory,
        EntryType::Symlink => Kind::Symlink,
        EntryType::Link => Kind::Hardlink,
        other => Kind::Other(other.as_byte()),
    }
}
