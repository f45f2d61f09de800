//! The encoding of text files: UTF-8, with or without a byte order mark.
//!
//! Recognises other encodings that editors write, and converts none of them.

use super::source_text::{Finding, error};

/// The text in `bytes`, up to where it is not UTF-8, and the finding from there on.
pub fn text(bytes: &[u8]) -> (&str, Option<Finding>) {
    let fault = |what: String| Some(error(what).with_remedy("save the file as UTF-8"));
    if let Some(name) = wide(bytes) {
        return ("", fault(format!("the file is in {name}")));
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => (text, None),
        Err(broken) => {
            let valid = std::str::from_utf8(&bytes[..broken.valid_up_to()]).unwrap_or_default();
            (valid, fault("not UTF-8 from here on".into()))
        }
    }
}

/// The encoding of text with several bytes for each character, if `bytes` look like it. Recognised
/// by the byte order mark, or by the zeros beside the first two letters.
pub fn wide(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        // UTF-32 first: its little-endian mark begins with that of UTF-16.
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => Some("UTF-32"),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Some("UTF-16"),
        [a, 0, b, 0, ..] | [0, a, 0, b, ..] if *a != 0 && *b != 0 => Some("UTF-16"),
        [a, 0, 0, 0, b, ..] | [0, 0, 0, a, 0, 0, 0, b, ..] if *a != 0 && *b != 0 => Some("UTF-32"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8], expected: &str) {
        let (text, fault) = text(bytes);
        assert_eq!(
            fault.map_or_else(|| text.to_owned(), |fault| fault.message.into_owned()),
            expected
        );
    }

    #[test]
    fn other_encodings_of_text_are_named() {
        let little: Vec<u8> = "sch".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let big: Vec<u8> = "sch".encode_utf16().flat_map(u16::to_be_bytes).collect();
        let wide: Vec<u8> = "sch".chars().flat_map(|c| u32::from(c).to_le_bytes()).collect();
        check(&[&[0xff, 0xfe], &little[..]].concat(), "the file is in UTF-16");
        check(&[&[0xfe, 0xff], &big[..]].concat(), "the file is in UTF-16");
        check(&little, "the file is in UTF-16");
        check(&big, "the file is in UTF-16");
        check(&wide, "the file is in UTF-32");
        check(&[&[0xff, 0xfe, 0, 0], &wide[..]].concat(), "the file is in UTF-32");
    }

    #[test]
    fn broken_utf_8_is_reported_with_its_place() {
        check("\u{feff}sch\u{e9}ma".as_bytes(), "\u{feff}sch\u{e9}ma");
        check(b"", "");
        check(b"caf\xe9", "not UTF-8 from here on");
        assert_eq!(text(b"caf\xe9").0, "caf");
    }
}
