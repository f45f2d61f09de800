//! Quotation marks that word processors and web pages put in the place of plain ones.
//!
//! Knows the characters, and no grammar. No remedy prints one of them, since it would be copied.

use crate::control::config::source_text::{Finding, error};

/// Whether `c` is a quotation mark that TOML does not know.
pub fn is_quote(c: char) -> bool {
    matches!(
        c,
        '\u{2018}'..='\u{201f}' // single and double, of English and German
            | '\u{ab}' | '\u{bb}' | '\u{2039}' | '\u{203a}' // French
            | '\u{2032}' | '\u{2033}' | '\u{b4}' | '`' // primes and accents
            | '\u{300c}'..='\u{300f}' | '\u{301d}'..='\u{301f}' // Japanese
            | '\u{ff02}' | '\u{ff07}' // of full width
    )
}

/// The error about `text`, which contains such marks or is part of the text between them.
pub fn finding(text: &str) -> Finding {
    let finding = error("quotation marks that TOML does not know");
    let inside = text.strip_prefix(is_quote).and_then(|text| text.strip_suffix(is_quote));
    match inside.filter(|inside| !inside.contains(|c| is_quote(c) || c == '"' || c == '\\')) {
        Some(inside) => finding.with_remedy(format!("write \"{inside}\"")),
        None => finding.with_remedy("write plain ones, as around \"this\""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remedy_has_plain_marks() {
        let check = |text: &str, remedy: &str| {
            let said = finding(text).sentence();
            assert_eq!(
                said,
                format!("quotation marks that TOML does not know: {remedy}"),
                "{text}"
            );
        };
        for text in [
            "\u{201c}a b\u{201d}",
            "\u{2018}a b\u{2019}",
            "\u{201e}a b\u{201c}",
            "\u{ab}a b\u{bb}",
            "`a b\u{b4}",
        ] {
            check(text, "write \"a b\"");
        }
        for text in [
            "\u{201c}a",
            "a\u{201d}",
            "\u{201c}a\"b\u{201d}",
            "\u{201c}a\u{201d}, \u{201c}b\u{201d}",
        ] {
            check(text, "write plain ones, as around \"this\"");
        }
        assert!(!"\"a\" 'b' \u{e9}".contains(is_quote));
    }
}
