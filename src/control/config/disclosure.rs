//! Limits on the text of a file that a diagnostic may repeat.
//!
//! A configuration can name the wrong file, such as a private key. The agent's output (log,
//! `/readyz`, admin API) has other readers than that file.

use std::borrow::Cow;
use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::LazyLock;

use ipnet::IpNet;
use serde_json::Value;

use super::identifier::is_name;
use super::schema::{CONFIG, POLICY};

/// Replacement for text that is not shown.
const ELLIPSIS: &str = "…";

/// Most bytes of a name that is shown: names are short, and keys in hexadecimal are not.
const MAX_NAME_BYTES: usize = 24;

/// Most bytes of a number with its unit that is shown.
const MAX_NUMBER_BYTES: usize = 8;

/// First characters of keys that are kept in text files.
const SECRET_PREFIXES: [&str; 4] =
    ["-----BEGIN", "---- BEGIN", "PuTTY-User-Key-File", "AGE-SECRET-KEY"];

/// Words of this program that messages use and no schema has.
const OWN_WORDS: [&str; 7] = ["owner", "ticket", "expires", "any", "baseline", "unix", "allow"];

/// The readers of findings in the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// The readers of the log, of `/readyz` and of the admin socket.
    Public,
    /// A person who called a command, and can read the files.
    Person,
}

/// How much of a file's text may be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Disclosure {
    /// No text of the file.
    Nothing,
    /// Names of keys and lists.
    Names,
    /// Everything: lines with carets, and values.
    Lines,
}

/// A sentence. A literal is this program's own text; an owned string may repeat text of the file.
pub type MessageText = Cow<'static, str>;

impl Audience {
    /// How much of a configuration file in its proper place may be shown.
    pub fn disclosure(self) -> Disclosure {
        match self {
            Audience::Public => Disclosure::Names,
            Audience::Person => Disclosure::Lines,
        }
    }
}

impl Disclosure {
    /// The same for a list file, whose words are never names.
    pub fn for_list(self) -> Disclosure {
        if self == Disclosure::Lines { self } else { Disclosure::Nothing }
    }

    /// `words` without the parts that may not be shown.
    pub fn shown(self, words: MessageText) -> String {
        match words {
            Cow::Owned(text) if self != Disclosure::Lines => {
                self.redacted(&self.redacted(&text, '`'), '"')
            }
            words => words.into_owned(),
        }
    }

    /// `key`, which begins a message, or its replacement.
    pub fn shown_key(self, key: &str) -> &str {
        if self == Disclosure::Lines || self.may_show(key, '`') { key } else { ELLIPSIS }
    }

    /// `text` without those parts between two of `mark` that may not be shown. Such a part may
    /// contain the mark itself, so it ends at the last mark of the text. It ends at the next one
    /// only if the rest looks like this program's own words.
    fn redacted(self, text: &str, mark: char) -> String {
        let (mut shown, mut from) = (String::new(), 0);
        while let Some(open) = text[from..].find(mark).map(|at| from + at + 1) {
            shown.push_str(&text[from..open]);
            let Some(close) = text[open..].find(mark).map(|at| open + at) else {
                shown.push_str(ELLIPSIS);
                return shown;
            };
            let word = &text[open..close];
            if self.may_show(word, mark) {
                shown.push_str(word);
                from = close;
            } else {
                // Too much is hidden rather than too little: the word itself may contain the mark.
                let last = text.rfind(mark).unwrap_or(close);
                from = if self == Disclosure::Names && is_own_text(&text[open..], mark) {
                    close
                } else {
                    last
                };
                shown.push_str(ELLIPSIS);
            }
            shown.push(mark);
            from += mark.len_utf8();
        }
        shown.push_str(&text[from..]);
        shown
    }

    fn may_show(self, word: &str, mark: char) -> bool {
        is_sign(word)
            || word.starts_with("[")
                && word.ends_with("]")
                && self.may_show(word.trim_matches(['[', ']']), mark)
            || KNOWN_WORDS.contains(word)
            || is_number(word)
            || is_address(word)
            || self == Disclosure::Names && is_named(word, mark)
    }
}

/// Whether `bytes` may contain a key, so that none of them are shown.
pub fn is_secret(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    // A NUL means binary data, such as a key in DER.
    bytes.contains(&0) || SECRET_PREFIXES.iter().any(|secret| text.contains(secret))
}

/// Whether a PEM file may contain a private key, whatever else it has.
pub fn has_private_key(bytes: &[u8]) -> bool {
    let marks = ["PRIVATE KEY", "OPENSSH", "PuTTY-User-Key-File", "AGE-SECRET-KEY"];
    marks.iter().any(|mark| bytes.windows(mark.len()).any(|part| part == mark.as_bytes()))
}

/// Whether the parts of `text` outside marks all look like this program's own words. `text` begins
/// inside a pair of marks.
fn is_own_text(text: &str, mark: char) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || " ,;:().'-".contains(c);
    let pieces: Vec<_> = text.split(mark).collect();
    pieces.len().is_multiple_of(2)
        && pieces.iter().skip(1).step_by(2).all(|outside| outside.chars().all(plain))
}

/// Whether `word` looks like the name of a key, a list or a socket.
fn is_named(word: &str, mark: char) -> bool {
    let socket = word.strip_prefix("systemd:");
    let name = socket.unwrap_or(word);
    let parts = name.split('.').all(is_name);
    name.len() <= MAX_NAME_BYTES && parts && (mark == '`' || socket.is_some())
}

/// Whether `word` is one character of punctuation, or empty.
fn is_sign(word: &str) -> bool {
    word.chars().count() <= 1 && !word.contains(char::is_alphanumeric)
}

/// Whether `word` is a number with a unit: `50%`, `36h`, `5/s`.
fn is_number(word: &str) -> bool {
    let unit = word.trim_start_matches(|c: char| c.is_ascii_digit());
    let is_unit =
        unit.len() <= 3 && unit.chars().all(|c| c.is_ascii_alphabetic() || c == '/' || c == '%');
    word.len() <= MAX_NUMBER_BYTES && unit.len() < word.len() && is_unit
}

fn is_address(word: &str) -> bool {
    let bare = word.strip_prefix('!').unwrap_or(word);
    bare.parse::<IpNet>().is_ok()
        || bare.parse::<IpAddr>().is_ok()
        || bare.parse::<SocketAddr>().is_ok()
}

/// Every key, and every word that a key may have as its value, from the schemas.
static KNOWN_WORDS: LazyLock<HashSet<String>> = LazyLock::new(|| {
    let mut words = OWN_WORDS.map(str::to_owned).into_iter().collect();
    for schema in [CONFIG, POLICY] {
        collect_words(&serde_json::from_str(schema).unwrap_or_default(), &mut words);
    }
    words
});

fn collect_words(schema: &Value, words: &mut HashSet<String>) {
    for (name, below) in schema.as_object().into_iter().flatten() {
        match name.as_str() {
            "properties" => {
                words.extend(below.as_object().into_iter().flatten().map(|(key, _)| key.clone()));
            }
            "enum" => words.extend(below.as_array().into_iter().flatten().filter_map(text)),
            "const" | "default" => words.extend(text(below)),
            _ => {}
        }
        collect_words(below, words);
    }
    schema.as_array().into_iter().flatten().for_each(|below| collect_words(below, words));
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(disclosure: Disclosure, text: &str, expected: &str) {
        assert_eq!(disclosure.shown(Cow::Owned(text.to_owned())), expected);
    }

    #[test]
    fn literal_is_shown_unchanged() {
        let ours = "write \"anything\" or `else`";
        assert_eq!(Disclosure::Nothing.shown(ours.into()), ours);
    }

    #[test]
    fn values_are_redacted_and_names_kept() {
        check(
            Disclosure::Names,
            "unknown key `alow` in [client]",
            "unknown key `alow` in [client]",
        );
        check(Disclosure::Nothing, "unknown key `alow` in [client]", "unknown key `…` in [client]");
        check(
            Disclosure::Names,
            "expected \"warn\" or \"reject\", found \"hunter2\"",
            "expected \"warn\" or \"reject\", found \"…\"",
        );
        check(Disclosure::Names, "`MIIEvQIBADAN` is not a name", "`…` is not a name");
        check(
            Disclosure::Names,
            "listen = \"systemd:public\" of `extra.socket`",
            "listen = \"systemd:public\" of `extra.socket`",
        );
        check(
            Disclosure::Names,
            "`0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f` is defined twice",
            "`…` is defined twice",
        );
        check(
            Disclosure::Names,
            "`f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0` is defined twice",
            "`…` is defined twice",
        );
        check(Disclosure::Lines, "`MIIEvQIBADAN` is not a name", "`MIIEvQIBADAN` is not a name");
    }

    #[test]
    fn numbers_addresses_and_own_words_are_kept() {
        for text in [
            "max_shrink is \"50%\"",
            "\"10.0.0.0/8\" is defined twice",
            "`!192.0.2.1`",
            "expected `=`",
            "`max_age`",
        ] {
            check(Disclosure::Nothing, text, text);
        }
        check(Disclosure::Nothing, "\"5f4dcc3b\" and more", "\"…\" and more");
    }

    #[test]
    fn redaction_holds_when_text_has_the_quote_mark() {
        check(Disclosure::Names, "\"a\" Secr3t \"b\" is no rate", "\"…\" is no rate");
        check(Disclosure::Nothing, "`x` secret `1.2.3.4` is no address", "`…` is no address");
        check(Disclosure::Nothing, "an odd ` secret", "an odd `…");
        check(Disclosure::Names, "an odd ` `x` secret", "an odd ` `x`…");
        check(
            Disclosure::Names,
            "`A!` is no host: letters, `-` and `_`",
            "`…` is no host: letters, `-` and `_`",
        );
    }

    #[test]
    fn secrets_are_recognised_by_prefix() {
        for secret in [
            "x\n-----BEGIN PRIVATE KEY-----\n",
            "---- BEGIN SSH2 PUBLIC KEY ----",
            "PuTTY-User-Key-File-3: ssh",
            "\0",
        ] {
            assert!(is_secret(secret.as_bytes()), "{secret:?}");
        }
        assert!(!is_secret("# BEGIN of a list\n192.0.2.1\n".as_bytes()));
    }
}
