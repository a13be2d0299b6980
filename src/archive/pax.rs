//! The records of pax headers.
//!
//! Used are `path`, `linkpath`, `size`, `mtime` and the maps of sparse files. All other keys are ignored: owners, other times,
//! ACLs, extended attributes, SELinux labels, file capabilities, and what vendors add. As in POSIX, a later record replaces an
//! earlier one, and an empty value restores the header's own.

use super::field::{Mtime, decimal, pax_time};
use super::sparse::{Extent, PaxMap};

/// What pax headers say about the next entry.
#[derive(Clone, Debug, Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) target: Option<Vec<u8>>,
    /// The length of the stored content. It takes precedence over the header's, whose field ends at 8 GiB.
    pub(super) size: Option<u64>,
    pub(super) mtime: Option<Mtime>,
    pub(super) sparse: PaxMap,
}

impl Pax {
    /// Merges the content of one pax header.
    pub(super) fn merge(&mut self, content: &[u8]) -> Result<(), &'static str> {
        for record in records(content)? {
            self.take(&record)?;
        }
        Ok(())
    }

    /// Merges the content of a global header, which is about all entries after it. Names and sizes make no sense there.
    pub(super) fn merge_global(&mut self, content: &[u8]) -> Result<(), &'static str> {
        for record in records(content)? {
            let names_one_entry =
                matches!(record.key, b"path" | b"linkpath" | b"size") || record.key.starts_with(b"GNU.sparse.");
            if names_one_entry && !record.value.is_empty() {
                return Err("a global header has a name, a size or a sparse map, which belongs to one entry");
            }
            self.take(&record)?;
        }
        Ok(())
    }

    fn take(&mut self, record: &Record<'_>) -> Result<(), &'static str> {
        let Record { key, value } = *record;
        let text = || (!value.is_empty()).then(|| value.to_vec());
        let number = || match value {
            b"" => Ok(None),
            value => decimal(value).map(Some).ok_or("a number of a pax header is malformed"),
        };
        match key {
            b"path" => self.path = text(),
            b"linkpath" => self.target = text(),
            b"size" => self.size = number()?,
            b"mtime" if value.is_empty() => self.mtime = None,
            b"mtime" => self.mtime = Some(pax_time(value).ok_or("a pax time is malformed")?),
            b"GNU.sparse.major" => self.sparse.major = number()?,
            b"GNU.sparse.minor" => self.sparse.minor = number()?,
            b"GNU.sparse.name" => self.sparse.name = text(),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.sparse.real_size = number()?,
            b"GNU.sparse.offset" => self.sparse.begin(number()?.unwrap_or_default()),
            b"GNU.sparse.numbytes" => self.sparse.end(number()?.unwrap_or_default())?,
            b"GNU.sparse.map" => self.sparse.extents = sparse_map(value)?,
            _ => {}
        }
        Ok(())
    }
}

/// The map of version 0.1: `offset,length,offset,length…`.
fn sparse_map(text: &[u8]) -> Result<Vec<Extent>, &'static str> {
    const MALFORMED: &str = "the map of a sparse file is malformed";
    let mut numbers = text.split(|byte| *byte == b',').filter(|_| !text.is_empty()).map(decimal);
    let mut extents = Vec::new();
    while let Some(offset) = numbers.next() {
        let len = numbers.next().flatten();
        extents.push(Extent { offset: offset.ok_or(MALFORMED)?, len: len.ok_or(MALFORMED)? });
    }
    Ok(extents)
}

/// A pax header's key and value.
#[derive(Debug, PartialEq, Eq)]
struct Record<'a> {
    key: &'a [u8],
    value: &'a [u8],
}

/// The records of a pax header, each `<length> <key>=<value>\n`. The length is that of the whole record.
fn records(mut content: &[u8]) -> Result<Vec<Record<'_>>, &'static str> {
    const MALFORMED: &str = "a pax header is malformed";
    let mut records = Vec::new();
    while !content.is_empty() {
        let blank = content.iter().position(|&byte| byte == b' ').ok_or(MALFORMED)?;
        let length = content.get(..blank).and_then(decimal).and_then(|n| usize::try_from(n).ok()).ok_or(MALFORMED)?;
        let record = content.get(blank + 1..length).and_then(|record| record.strip_suffix(b"\n")).ok_or(MALFORMED)?;
        let equals = record.iter().position(|&byte| byte == b'=').filter(|at| *at > 0).ok_or(MALFORMED)?;
        let (key, value) = record.split_at(equals);
        records.push(Record { key, value: value.get(1..).unwrap_or_default() });
        content = content.get(length..).ok_or(MALFORMED)?;
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_strictly() {
        let found = records(b"11 path=ab\n9 a=b=\nc\n").unwrap();
        assert_eq!(found, [Record { key: b"path", value: b"ab" }, Record { key: b"a", value: b"b=\nc" }]);
        for bad in [
            &b"11 path=ab"[..],
            b"12 path=ab\n",
            b"x a=b\n",
            b"6 =bc\n",
            b"5 ab\n",
            b"99999999999999999999 a=b\n",
            b"0 a=b\n",
        ] {
            assert!(records(bad).is_err(), "{:?}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn a_later_record_replaces_an_earlier_one_and_an_empty_one_removes_it() {
        let mut pax = Pax::default();
        pax.merge(b"10 path=a\n10 path=b\n10 size=7\n13 mtime=1.5\n8 size=\n").unwrap();
        assert_eq!((pax.path.as_deref(), pax.size), (Some(&b"b"[..]), None));
        assert_eq!(pax.mtime, Some(Mtime { secs: 1, nanos: 500_000_000 }));
        assert!(pax.merge(b"10 size=x\n").is_err());
        assert!(Pax::default().merge_global(b"10 path=a\n").is_err());
        assert!(Pax::default().merge_global(b"13 mtime=1.5\n14 comment=ab\n8 path=\n").is_ok());
    }

    #[test]
    fn maps_are_pairs_of_numbers() {
        assert_eq!(sparse_map(b"0,5,10,0").unwrap(), [Extent { offset: 0, len: 5 }, Extent { offset: 10, len: 0 }]);
        assert_eq!(sparse_map(b"").unwrap(), []);
        for bad in [&b"1"[..], b"1,", b"1,2,3", b"a,b", b"1,-2"] {
            assert!(sparse_map(bad).is_err(), "{:?}", String::from_utf8_lossy(bad));
        }
    }
}
