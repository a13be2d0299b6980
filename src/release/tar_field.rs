//! The fields of tar headers: numbers, texts, times, and the records of pax headers.
//!
//! Pure functions. Each returns nothing for a malformed field; [`super::archive`] refuses the archive then.

/// A modification time. Times before 1970 become 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mtime {
    pub(super) secs: u64,
    pub(super) nanos: u32,
}

/// Whether a pax key changes the kind of an entry, or grants privileges to a file.
pub(super) fn is_refused(key: &[u8]) -> bool {
    [&b"GNU.sparse."[..], b"SCHILY.realsize", b"SCHILY.xattr.security.", b"LIBARCHIVE.xattr.security."]
        .iter()
        .any(|refused| key.starts_with(refused))
}

/// The text of a field that is padded with NULs; `None` if there is data after the first NUL.
pub(super) fn text_of(field: &[u8]) -> Option<&[u8]> {
    let end = field.iter().position(|&byte| byte == 0).unwrap_or(field.len());
    let (text, rest) = field.split_at(end);
    rest.iter().all(|&byte| byte == 0).then_some(text)
}

/// A number of a header: octal digits between blanks and NULs, or GNU's base 256. An empty field is 0.
pub(super) fn number(field: &[u8]) -> Option<u64> {
    if let Some((0x80, rest)) = field.split_first().map(|(first, rest)| (*first, rest)) {
        return rest.iter().try_fold(0_u64, |sum, &byte| Some(sum.checked_mul(256)? + u64::from(byte)));
    }
    let is_blank = |byte: &u8| matches!(byte, b' ' | 0);
    let begin = field.iter().position(|byte| *byte != b' ').unwrap_or(field.len());
    let digits = field.get(begin..)?;
    let end = digits.iter().position(is_blank).unwrap_or(digits.len());
    let (digits, rest) = digits.split_at(end);
    if !rest.iter().all(is_blank) {
        return None;
    }
    digits.iter().try_fold(0_u64, |sum, &digit| match digit {
        b'0'..=b'7' => Some(sum.checked_mul(8)? + u64::from(digit - b'0')),
        _ => None,
    })
}

/// A number of a pax record: decimal digits only.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    // `parse` alone would accept a sign.
    let text = std::str::from_utf8(text).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()))?;
    text.parse().ok()
}

/// A pax time: `[-]<seconds>[.<fraction>]`.
pub(super) fn pax_time(text: &[u8]) -> Option<Mtime> {
    let text = std::str::from_utf8(text).ok()?;
    let (sign, digits) = text.strip_prefix('-').map_or((1, text), |digits| (-1, digits));
    let (secs, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let secs = decimal(secs.as_bytes())?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let nanos: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    let mtime = Mtime { secs, nanos: nanos.parse().ok()? };
    Some(if sign < 0 { Mtime::default() } else { mtime })
}

/// A pax header's keys and values.
type PaxRecords<'a> = Vec<(&'a [u8], &'a [u8])>;

/// The records of a pax header, each `<length> <key>=<value>\n`. The length is that of the whole record.
pub(super) fn pax_records(mut content: &[u8]) -> Result<PaxRecords<'_>, &'static str> {
    const MALFORMED: &str = "a pax header is malformed";
    let mut records = Vec::new();
    while !content.is_empty() {
        let blank = content.iter().position(|&byte| byte == b' ').ok_or(MALFORMED)?;
        let length = content.get(..blank).and_then(decimal).and_then(|n| usize::try_from(n).ok()).ok_or(MALFORMED)?;
        let record = content.get(blank + 1..length).and_then(|record| record.strip_suffix(b"\n")).ok_or(MALFORMED)?;
        let equals = record.iter().position(|&byte| byte == b'=').filter(|at| *at > 0).ok_or(MALFORMED)?;
        let (key, value) = record.split_at(equals);
        records.push((key, value.get(1..).unwrap_or_default()));
        content = content.get(length..).ok_or(MALFORMED)?;
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_base_256() {
        for (field, value) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"\0\0\0\0", Some(0)),
            (b"77777777", Some(0o77_777_777)),
            (b"\x80\0\0\x01\x02", Some(258)),
            (b"64x\0", None),
            (b"6\x004\0", None),
            (b"-1\0", None),
            (b"\xff\xff\xff\xff", None),
            (b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
        ] {
            assert_eq!(number(field), value, "{field:?}");
        }
    }

    #[test]
    fn pax_records_are_read_strictly() {
        assert_eq!(pax_records(b"11 path=ab\n9 a=b=\nc\n").unwrap(), [(&b"path"[..], &b"ab"[..]), (b"a", b"b=\nc")]);
        for bad in [
            &b"11 path=ab"[..],
            b"12 path=ab\n",
            b"x a=b\n",
            b"6 =bc\n",
            b"5 ab\n",
            b"99999999999999999999 a=b\n",
            b"0 a=b\n",
        ] {
            assert!(pax_records(bad).is_err(), "{:?}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn times_before_1970_become_1970() {
        assert_eq!(pax_time(b"1700000000.25"), Some(Mtime { secs: 1_700_000_000, nanos: 250_000_000 }));
        assert_eq!(pax_time(b"-5.5"), Some(Mtime::default()));
        assert_eq!(pax_time(b"1.x"), None);
        assert_eq!(pax_time(b""), None);
    }
}
