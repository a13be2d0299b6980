//! `.cutover/files/<digest>`: the list of what the archive with this digest unpacks to, for [`super::check`].
//!
//! It is written while the archive is unpacked, as durable as the tree, and follows from the archive alone: the staged build and
//! every release of it share one list. It is removed with the last of them. Compressed it has about 20 bytes for each file, and
//! about 35 more with digests.
//!
//! ```text
//! cutover files 1 NUL
//! d TAB mode TAB path NUL
//! f TAB mode TAB bytes TAB secs TAB nanos TAB sha256|- TAB path NUL
//! l TAB path NUL target NUL
//! x TAB path NUL
//! end TAB number of entries NUL
//! ```
//!
//! The same form has `.cutover/files/<release>.<run>.changed`: what differs in a release for a good reason, as it is (`x`: it is gone).
//!
//! If an archive repeats a name, its last entry counts. A list that cannot be read is no list: the release is not checked.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use zstd::stream::{read::Decoder, write::Encoder};

use crate::plan::verify::{FileTime, Listed, Verify};

const HEADING: &[u8] = b"cutover files 1";
/// Fast: the list of 12,000 files takes about 3 ms.
const ZSTD_LEVEL: i32 = 1;
/// The longest field of a list: a path of 4,095 bytes, with numbers before it.
const LONGEST: u64 = 8192;

/// Writes a list, also from several threads.
pub(super) struct ListWriter {
    verify: Verify,
    state: Mutex<State>,
}

struct State {
    out: BufWriter<Encoder<'static, File>>,
    count: u64,
    /// The first error; nothing is written after it.
    failed: Option<io::Error>,
}

impl State {
    fn write(&mut self, parts: &[&[u8]]) {
        if self.failed.is_none() {
            self.failed = parts.iter().try_for_each(|part| self.out.write_all(part)).err();
        }
    }

    fn add(&mut self, path: &[u8], listed: &Listed) {
        self.count = self.count.saturating_add(1);
        match listed {
            Listed::Absent => self.write(&[b"x\t", path, b"\0"]),
            Listed::Directory { mode } => self.write(&[format!("d\t{mode:o}\t").as_bytes(), path, b"\0"]),
            Listed::File { mode, bytes, written: FileTime { secs, nanos }, sha256 } => {
                let digest = sha256.map_or_else(|| "-".to_owned(), hex::encode);
                let fields = format!("f\t{mode:o}\t{bytes}\t{secs}\t{nanos}\t{digest}\t");
                self.write(&[fields.as_bytes(), path, b"\0"]);
            }
            Listed::Symlink { target } => self.write(&[b"l\t", path, b"\0", target, b"\0"]),
        }
    }
}

impl ListWriter {
    /// Creates the file at `path`.
    pub(super) fn create(path: &Path, verify: Verify) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(path)?;
        let mut encoder = Encoder::new(file, ZSTD_LEVEL)?;
        encoder.include_checksum(true)?;
        let mut state = State { out: BufWriter::new(encoder), count: 0, failed: None };
        state.write(&[HEADING, b"\0"]);
        Ok(Self { verify, state: Mutex::new(state) })
    }

    /// Whether the list has digests.
    pub(super) fn has_digests(&self) -> bool {
        self.verify == Verify::Full
    }

    /// Adds an entry. An error is returned by [`ListWriter::finish`].
    pub(super) fn add(&self, path: &[u8], listed: &Listed) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).add(path, listed);
    }

    /// Adds entries one after another, without others between them: who checks the list opens their directory once.
    pub(super) fn add_all(&self, entries: impl Iterator<Item = (Vec<u8>, Listed)>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        entries.for_each(|(path, listed)| state.add(&path, &listed));
    }

    /// Ends the list. The caller makes it durable.
    ///
    /// # Errors
    ///
    /// The first error of any write.
    pub(super) fn finish(self) -> io::Result<()> {
        let mut state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        let end = format!("end\t{}\0", state.count);
        state.write(&[end.as_bytes()]);
        match state.failed {
            Some(error) => Err(error),
            None => state.out.into_inner().map_err(io::IntoInnerError::into_error)?.finish().map(drop),
        }
    }
}

/// Reads a list, entry by entry. If an error is returned, it is incomplete.
///
/// # Errors
///
/// Those of `each`, and [`ListError`].
pub(super) fn read<E: From<ListError>>(
    path: &Path,
    mut each: impl FnMut(&[u8], &Listed) -> Result<(), E>,
) -> Result<(), E> {
    let unreadable = |error: io::Error| E::from(ListError(error));
    let damaged = || unreadable(io::ErrorKind::InvalidData.into());
    let decoder = File::open(path).and_then(Decoder::new).map_err(unreadable)?;
    let mut reader = BufReader::new(decoder);
    let mut next = || field(&mut reader).map_err(unreadable);
    if next()? != HEADING {
        return Err(damaged());
    }
    let mut count = 0_u64;
    loop {
        let text = next()?;
        if let Some(end) = text.strip_prefix(b"end\t") {
            let is_whole = end == count.to_string().as_bytes() && next()?.is_empty();
            return if is_whole { Ok(()) } else { Err(damaged()) };
        }
        count = count.saturating_add(1);
        if let Some(path) = text.strip_prefix(b"l\t") {
            each(path, &Listed::Symlink { target: next()? })?;
        } else {
            let (path, listed) = entry(&text).ok_or_else(damaged)?;
            each(path, &listed)?;
        }
    }
}

/// The list is missing or damaged.
#[derive(Debug)]
pub(super) struct ListError(pub(super) io::Error);

/// The bytes up to the next NUL; none at the end.
fn field(reader: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    reader.by_ref().take(LONGEST).read_until(0, &mut text)?;
    match text.pop() {
        None | Some(0) => Ok(text),
        Some(_) => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// The path and the entry of a line about a directory or file.
fn entry(line: &[u8]) -> Option<(&[u8], Listed)> {
    let text = |field: &[u8]| str::from_utf8(field).ok().map(str::to_owned);
    let mode = |field: &[u8]| u32::from_str_radix(&text(field)?, 8).ok();
    let mut fields = line.splitn(2, |byte| *byte == b'\t');
    let (kind, rest) = (fields.next()?, fields.next()?);
    if kind == b"x" {
        return Some((rest, Listed::Absent));
    }
    if kind == b"d" {
        let mut fields = rest.splitn(2, |byte| *byte == b'\t');
        let mode = mode(fields.next()?)?;
        return Some((fields.next()?, Listed::Directory { mode }));
    }
    let mut fields = rest.splitn(6, |byte| *byte == b'\t');
    let mode = mode(fields.next()?)?;
    let bytes = text(fields.next()?)?.parse().ok()?;
    let written = FileTime { secs: text(fields.next()?)?.parse().ok()?, nanos: text(fields.next()?)?.parse().ok()? };
    let sha256 = match fields.next()? {
        b"-" => None,
        digest => Some(hex::decode(digest).ok()?.try_into().ok()?),
    };
    (kind == b"f").then_some((fields.next()?, Listed::File { mode, bytes, written, sha256 }))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn all(path: &Path) -> Result<Vec<(Vec<u8>, Listed)>, ListError> {
        let mut found = Vec::new();
        read(path, |path, listed| {
            found.push((path.to_owned(), listed.clone()));
            Ok::<_, ListError>(())
        })
        .map(|()| found)
    }

    #[test]
    fn a_list_is_read_as_it_was_written_and_never_in_part() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list");
        let written = FileTime { secs: 1_700_000_000, nanos: 7 };
        let entries = [
            (b"odd\tname\n\xff".to_vec(), Listed::Directory { mode: 0o2750 }),
            (b"a/b".to_vec(), Listed::File { mode: 0o644, bytes: u64::MAX, written, sha256: Some([0xab; 32]) }),
            (b"a/\tc".to_vec(), Listed::File { mode: 0, bytes: 0, written: FileTime::default(), sha256: None }),
            (b"a\tgone".to_vec(), Listed::Absent),
            (b"end\t1".to_vec(), Listed::Symlink { target: b"\t../x".to_vec() }),
        ];
        let list = ListWriter::create(&path, Verify::Full).unwrap();
        for (path, listed) in &entries {
            list.add(path, listed);
        }
        list.finish().unwrap();
        assert_eq!(all(&path).unwrap(), entries);
        let good = fs::read(&path).unwrap();
        for cut in 0..good.len() {
            fs::write(&path, &good[..cut]).unwrap();
            assert!(all(&path).is_err(), "cut at {cut}");
        }
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &bad).unwrap();
            // Some bits of a frame's header say nothing about its content.
            assert!(all(&path).is_ok_and(|found| found == entries) || all(&path).is_err(), "bit {bit}");
        }
        assert!(all(&dir.path().join("none")).is_err());
    }
}
