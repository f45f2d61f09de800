//! Parses the pattern of a `location`.

use crate::import::nginx::regex::Regex;

/// The paths that a location matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocationPattern {
    /// `= /a`: this path alone.
    Exact(String),
    /// `/a`: every path that begins so. With `^~`, regular expressions are skipped.
    Prefix(String, RegexPrecedence),
    /// `~ ^/a`, or `~* ^/a` without regard to case.
    Regex(Regex),
    /// `@a`: no path; reached from other locations only.
    Named(String),
}

/// Whether regular expressions may override a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegexPrecedence {
    /// A matching regular expression takes precedence.
    Tried,
    /// `^~`: regular expressions are not tried.
    Skipped,
}

impl LocationPattern {
    /// Parses the words after `location`.
    ///
    /// # Errors
    /// Returns nginx' message as a sentence.
    pub fn parse(words: &[String]) -> Result<LocationPattern, String> {
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
            "=" => LocationPattern::Exact(pattern.into()),
            "^~" => LocationPattern::Prefix(pattern.into(), RegexPrecedence::Skipped),
            "~" | "~*" => LocationPattern::Regex(Regex::parse(pattern, sign == "~*")),
            _ if pattern.starts_with('@') => LocationPattern::Named(pattern.into()),
            _ => LocationPattern::Prefix(pattern.into(), RegexPrecedence::Tried),
        })
    }

    /// Returns the literal path. `None` means a regular expression or a named location.
    pub fn path(&self) -> Option<&str> {
        match self {
            LocationPattern::Exact(path) | LocationPattern::Prefix(path, _) => Some(path),
            LocationPattern::Regex(_) | LocationPattern::Named(_) => None,
        }
    }

    /// Returns the literal beginnings of its paths: the path, or those of the regular expression.
    pub fn texts(&self) -> Vec<&str> {
        match self {
            LocationPattern::Regex(regex) => {
                regex.branches().iter().map(|branch| branch.text.as_str()).collect()
            }
            _ => self.path().into_iter().collect(),
        }
    }
}
