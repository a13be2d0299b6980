//! Paths as text: one line, without control characters, and reversible.

/// Whether a character stands for itself.
fn is_plain(c: char) -> bool {
    c != '%' && !c.is_control()
}

/// The bytes as text. `%` and two hex digits stand for each byte of `%`, of control characters, and of what is not UTF-8.
pub(super) fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if is_plain(c) {
                text.push(c);
            } else {
                push_hex(&mut text, c.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
        push_hex(&mut text, chunk.invalid());
    }
    text
}

fn push_hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        text.push('%');
        text.push_str(&hex::encode([*byte]));
    }
}

/// The bytes that [`escape`] wrote as `text`; none if a `%` is not followed by two hex digits.
pub(super) fn unescape(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        rest = match first {
            b'%' => {
                let (digits, after) = after.split_at_checked(2)?;
                bytes.extend(hex::decode(digits).ok()?);
                after
            }
            plain => {
                bytes.push(*plain);
                after
            }
        };
    }
    Some(bytes)
}
