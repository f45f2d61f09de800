//! The pattern of a `location`.

use crate::import::nginx::regex::Regex;

/// For which paths a location is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Matches {
    /// `= /a`
    Exact(String),
    /// `/a`, and with `^~` no regular expression comes before it.
    Prefix(String, Regexes),
    /// `~ ^/a`, `~* ^/a`
    Regex(Regex),
    /// `@a`
    Named(String),
}

/// Whether regular expressions are asked as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Regexes {
    /// They come first.
    Asked,
    /// `^~`
    Skipped,
}

impl Matches {
    /// Reads the words after `location`.
    ///
    /// # Errors
    /// A sentence.
    pub fn parse(words: &[String]) -> Result<Matches, String> {
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        let (sign, pattern) = match &words[..] {
            [sign, pattern] if ["=", "^~", "~", "~*"].contains(sign) => (*sign, *pattern),
            [sign, _] => return Err(format!("invalid location modifier \"{sign}\"")),
            // The sign may touch the pattern.
            [one] => {
                let sign = ["^~", "~*", "~", "="]
                    .into_iter()
                    .find(|sign| one.starts_with(sign))
                    .unwrap_or_default();
                (sign, &one[sign.len()..])
            }
            _ => return Err("`location` takes a modifier and a path".into()),
        };
        Ok(match sign {
            "=" => Matches::Exact(pattern.into()),
            "^~" => Matches::Prefix(pattern.into(), Regexes::Skipped),
            "~" | "~*" => Matches::Regex(Regex::parse(pattern, sign == "~*")),
            _ if pattern.starts_with('@') => Matches::Named(pattern.into()),
            _ => Matches::Prefix(pattern.into(), Regexes::Asked),
        })
    }

    /// The path that stands in it, if there is one.
    pub fn path(&self) -> Option<&str> {
        match self {
            Matches::Exact(path) | Matches::Prefix(path, _) => Some(path),
            Matches::Regex(_) | Matches::Named(_) => None,
        }
    }

    /// The texts that its paths begin with: the path, or those of the regular expression.
    pub fn texts(&self) -> Vec<&str> {
        match self {
            Matches::Regex(regex) => {
                regex.branches().iter().map(|branch| branch.text.as_str()).collect()
            }
            _ => self.path().into_iter().collect(),
        }
    }
}
