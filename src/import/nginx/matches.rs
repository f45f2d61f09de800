//! Parses the pattern of a `location`.

use crate::import::nginx::regex::Regex;

/// The paths that a location matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Matches {
    /// `= /a`: this path alone.
    Exact(String),
    /// `/a`: every path that begins so. With `^~`, regular expressions are skipped.
    Prefix(String, Regexes),
    /// `~ ^/a`, or `~* ^/a` without regard to case.
    Regex(Regex),
    /// `@a`: no path; reached from other locations only.
    Named(String),
}

/// Whether regular expressions may override a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Regexes {
    /// A matching regular expression takes precedence.
    Asked,
    /// `^~`: regular expressions are not tried.
    Skipped,
}

impl Matches {
    /// Parses the words after `location`.
    ///
    /// # Errors
    /// Returns nginx' message as a sentence.
    pub fn parse(words: &[String]) -> Result<Matches, String> {
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        let (sign, pattern) = match &words[..] {
            [sign, pattern] if ["=", "^~", "~", "~*"].contains(sign) => (*sign, *pattern),
            [sign, _] => return Err(format!("invalid location modifier \"{sign}\"")),
            // nginx also accepts a modifier without a space after it.
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

    /// Returns the literal path. `None` means a regular expression or a named location.
    pub fn path(&self) -> Option<&str> {
        match self {
            Matches::Exact(path) | Matches::Prefix(path, _) => Some(path),
            Matches::Regex(_) | Matches::Named(_) => None,
        }
    }

    /// Returns the literal beginnings of its paths: the path, or those of the regular expression.
    pub fn texts(&self) -> Vec<&str> {
        match self {
            Matches::Regex(regex) => {
                regex.branches().iter().map(|branch| branch.text.as_str()).collect()
            }
            _ => self.path().into_iter().collect(),
        }
    }
}
