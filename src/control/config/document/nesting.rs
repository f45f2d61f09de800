//! Limits the nesting of a TOML text before it is parsed into a tree.
//!
//! Parsing recurses over brackets, and dropping a tree recurses over dotted keys: a file of a few
//! megabytes could exhaust the stack. Knows strings and comments, and checks nothing else.

/// Levels of nesting; a file with more is refused.
pub const MAX_DEPTH: usize = 32;

/// The first byte at which brackets, and the dots of one key, nest deeper than [`MAX_DEPTH`].
pub fn first_too_deep(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let (mut brackets, mut dots, mut at) = (0_usize, 0_usize, 0);
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'#' => at = line_end(bytes, at),
            b'"' | b'\'' => at = string_end(bytes, at),
            b'.' => dots += 1,
            b'[' | b'{' => (brackets, dots) = (brackets + 1, 0),
            b']' | b'}' => (brackets, dots) = (brackets.saturating_sub(1), 0),
            // A dotted key ends here. Dots in a number or a date behind it count from zero.
            b'=' | b',' | b'\n' => dots = 0,
            _ => {}
        }
        if brackets + dots > MAX_DEPTH {
            return Some(at);
        }
        // After a string or comment, `at` is past its end already.
        if !matches!(byte, b'#' | b'"' | b'\'') {
            at += 1;
        }
    }
    None
}

/// Position of the newline that ends the comment at `at`.
fn line_end(bytes: &[u8], at: usize) -> usize {
    bytes.iter().skip(at).position(|byte| *byte == b'\n').map_or(bytes.len(), |length| at + length)
}

/// Position after the string that begins at `at`. An unterminated string ends with its line, or
/// with the text if it is multi-line.
fn string_end(bytes: &[u8], at: usize) -> usize {
    let Some(&quote) = bytes.get(at) else { return at };
    let rest = bytes.get(at..).unwrap_or_default();
    let long = rest.starts_with(&[quote; 3]);
    let mut end = if long { 3 } else { 1 };
    while let Some(byte) = rest.get(end) {
        match *byte {
            // Only a basic string has escapes. In a literal string `\` is a character like others.
            b'\\' if quote == b'"' => end += 1,
            b'\n' if !long => return at + end,
            _ if long && rest.get(end..).is_some_and(|rest| rest.starts_with(&[quote; 3])) => {
                return at + end + 3;
            }
            byte if byte == quote && !long => return at + end + 1,
            _ => {}
        }
        end += 1;
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<usize>) {
        assert_eq!(first_too_deep(text), expected, "{text}");
    }

    #[test]
    fn brackets_and_dots_add_up() {
        check(&format!("a = {}{}", "[".repeat(32), "]".repeat(32)), None);
        check(&format!("a = {}", "[".repeat(33)), Some(36));
        check(&format!("a{} = 1", ".a".repeat(32)), None);
        check(&format!("a{} = 1", ".a".repeat(33)), Some(65));
        check(&format!("[a{}]", ".a".repeat(32)), Some(64));
    }

    #[test]
    fn strings_and_comments_do_not_nest() {
        let deep = "[.{".repeat(40);
        check(&format!("# {deep}\na = 1"), None);
        check(&format!("a = \"\\\"{deep}\"\nb = '{deep}\\'"), None);
        check(&format!("a = \"\"\"\n\"{deep}\n\\\"\"\" {deep}\"\"\""), None);
        check(&format!("a = '''\n{deep}\n'''"), None);
        check(&"a = \"x\\\\\"\n".repeat(40), None);
    }

    #[test]
    fn unterminated_string_hides_one_line_only() {
        check(&format!("a = \"[\nb = {}", "[".repeat(33)), Some(43));
        check("a = \"", None);
        check("a = \"\\", None);
    }
}
