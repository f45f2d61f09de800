//! The grammar of names.

/// Words with a meaning of their own in places where a name can be.
pub const RESERVED: [&str; 5] = ["any", "unix", "none", "null", "baseline"];

/// Whether `text` is `[a-z][a-z0-9_-]*`, reserved or not.
pub fn is_name(text: &str) -> bool {
    let rest = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_' || c == b'-';
    text.bytes().next().is_some_and(|first| first.is_ascii_lowercase()) && text.bytes().all(rest)
}

/// Whether `text` is a reserved word, which no name may be.
pub fn is_reserved(text: &str) -> bool {
    RESERVED.contains(&text)
}
