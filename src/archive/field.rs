//! The fields of tar headers: numbers, texts and times.
//!
//! Pure functions. Each returns nothing for a malformed field; [`super::reader`] refuses the archive then.

/// The latest modification time, in seconds since 1970: the end of the year 9999. Later ones become this one.
const LATEST_SECS: u64 = 253_402_300_799;

/// A modification time. Times before 1970 become 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mtime {
    pub(crate) secs: u64,
    pub(crate) nanos: u32,
}

impl Mtime {
    pub(super) fn of_secs(secs: u64) -> Self {
        Self { secs: secs.min(LATEST_SECS), nanos: 0 }
    }
}

/// The text of a field: up to its first NUL. Some programs leave old bytes after it.
pub(super) fn text_of(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// A number of a header: octal digits between blanks and NULs, or GNU's base 256. An empty field is 0.
pub(super) fn number(field: &[u8]) -> Option<u64> {
    if let Some((0x80, rest)) = field.split_first().map(|(first, rest)| (*first, rest)) {
        return rest.iter().try_fold(0_u64, |sum, &byte| Some(sum.checked_mul(256)? + u64::from(byte)));
    }
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t' | 0);
    let begin = field.iter().position(|byte| !is_blank(byte)).unwrap_or(field.len());
    let digits = field.get(begin..)?.split(is_blank).next()?;
    digits.iter().try_fold(0_u64, |sum, &digit| match digit {
        b'0'..=b'7' => Some(sum.checked_mul(8)? + u64::from(digit - b'0')),
        _ => None,
    })
}

/// The modification time of a header. A negative base-256 number means a time before 1970.
pub(super) fn mtime(field: &[u8]) -> Option<Mtime> {
    if field.first() == Some(&0xff) {
        return Some(Mtime::default());
    }
    number(field).map(Mtime::of_secs)
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
    let mtime = Mtime { nanos: nanos.parse().ok()?, ..Mtime::of_secs(secs) };
    Some(if sign < 0 { Mtime::default() } else { mtime })
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
            (b"6\x004\0", Some(6)),
            (b"644 garbage", Some(0o644)),
            (b"-1\0", None),
            (b"\xff\xff\xff\xff", None),
            (b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
        ] {
            assert_eq!(number(field), value, "{field:?}");
        }
    }

    #[test]
    fn times_are_between_1970_and_9999() {
        assert_eq!(pax_time(b"1700000000.25"), Some(Mtime { secs: 1_700_000_000, nanos: 250_000_000 }));
        assert_eq!(pax_time(b"-5.5"), Some(Mtime::default()));
        assert_eq!(pax_time(b"18446744073709551615"), Some(Mtime { secs: LATEST_SECS, nanos: 0 }));
        assert_eq!(pax_time(b"1.x"), None);
        assert_eq!(pax_time(b""), None);
        assert_eq!(mtime(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe"), Some(Mtime::default()));
        assert_eq!(mtime(b"00000000012\0"), Some(Mtime { secs: 10, nanos: 0 }));
    }
}
