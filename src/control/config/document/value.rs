//! One value of a TOML file: its type, and the expected one.

use std::ops::{Range, RangeInclusive};

use jiff::Timestamp;
use toml::Spanned;
use toml::de::{DeString, DeValue};

use crate::control::config::diagnostic::Span;
use crate::control::config::document::suggest::did_you_mean;
use crate::control::config::document::tree::Document;
use crate::control::config::document::typography;
use crate::control::config::source_text::{Finding, error};

/// A value with its key, which begins every message about it.
#[derive(Debug, Clone, Copy)]
pub struct TomlValue<'d> {
    pub(super) document: &'d Document<'d>,
    key: &'d str,
    pub(super) value: &'d Spanned<DeValue<'d>>,
}

impl<'d> TomlValue<'d> {
    pub(super) fn new(
        document: &'d Document<'d>,
        key: &'d Spanned<DeString<'d>>,
        value: &'d Spanned<DeValue<'d>>,
    ) -> TomlValue<'d> {
        TomlValue { document, key: key.get_ref(), value }
    }

    /// The document that contains the value.
    pub fn document(&self) -> &'d Document<'d> {
        self.document
    }

    /// Records `finding` about the value, or about the part of its string that the finding is
    /// within.
    pub fn report(&self, finding: Finding) {
        let span = finding
            .within
            .clone()
            .and_then(|within| self.inside(within))
            .unwrap_or(self.value.span());
        self.document.report(span, finding.with_key(self.key));
    }

    /// The key of the value.
    pub fn key(&self) -> &'d str {
        self.key
    }

    /// The bytes of the value in the file.
    pub fn span(&self) -> Range<usize> {
        self.value.span()
    }

    /// The place of the value, with its line.
    pub fn place(&self) -> Span {
        self.document.place(self.value.span())
    }

    /// The number of the line in which the value begins, from 1.
    pub fn line(&self) -> usize {
        self.document.line(self.value.span().start)
    }

    /// Whether the value is a table.
    pub fn is_table(&self) -> bool {
        self.value.get_ref().is_table()
    }

    /// Whether the value is a table that has `key`.
    pub fn as_table_with(&self, key: &str) -> bool {
        self.value.get_ref().as_table().is_some_and(|table| table.contains_key(key))
    }

    /// Whether the value is a string.
    pub fn is_string(&self) -> bool {
        self.value.get_ref().is_str()
    }

    /// Whether the value is an array.
    pub fn is_array(&self) -> bool {
        self.value.get_ref().is_array()
    }

    /// The string. `None` means another type, without a report.
    pub fn as_str(&self) -> Option<&'d str> {
        self.value.get_ref().as_str()
    }

    /// The string. `None` means another type, which is reported.
    pub fn string(&self) -> Option<&'d str> {
        self.string_like("a string")
    }

    /// Parses the string with `parse`; `expected` describes valid values in messages.
    pub fn parse<T>(
        &self,
        expected: &str,
        parse: impl FnOnce(&'d str) -> Result<T, Finding>,
    ) -> Option<T> {
        let text = self.string_like(expected)?;
        self.parsed(text, parse)
    }

    /// Like [`TomlValue::parse`], but accepts a bare whole number if `parse` accepts its digits: a
    /// plain number, or a zero, which needs no unit.
    pub fn parse_number<T>(
        &self,
        expected: &str,
        parse: impl FnOnce(&'d str) -> Result<T, Finding>,
    ) -> Option<T> {
        let Some(integer) =
            self.value.get_ref().as_integer().filter(|integer| integer.radix() == 10)
        else {
            return self.parse(expected, parse);
        };
        let digits = integer.as_str();
        match parse(digits) {
            Ok(value) => Some(value),
            // A zero needs no unit, so the value is wrong and not its form.
            Err(finding) if digits.bytes().all(|digit| digit == b'0') => {
                self.report(finding);
                None
            }
            Err(_) => self.or_expected(expected, None),
        }
    }

    fn parsed<T>(
        &self,
        text: &'d str,
        parse: impl FnOnce(&'d str) -> Result<T, Finding>,
    ) -> Option<T> {
        let told = |finding| {
            if text.contains(typography::is_quote) { typography::finding(text) } else { finding }
        };
        // A string in an array was reported already, for its brackets.
        let fault = |finding| {
            if self.is_string() {
                self.report(told(finding));
            }
        };
        parse(text).map_err(fault).ok()
    }

    /// The meaning of the word, which must be one of `words`.
    pub fn choice<T: Clone>(&self, words: &[(&'static str, T)]) -> Option<T> {
        let known = || words.iter().map(|(word, _)| *word);
        let quoted: Vec<_> = known().map(|word| format!("\"{word}\"")).collect();
        let expected = match quoted.split_last() {
            Some((last, others)) if !others.is_empty() => {
                format!("{} or {last}", others.join(", "))
            }
            _ => quoted.concat(),
        };
        self.parse(&expected, |text| {
            let meant =
                words.iter().find(|(word, _)| *word == text).map(|(_, meaning)| meaning.clone());
            meant.ok_or_else(|| {
                error(format!("expected {expected}, found \"{text}\""))
                    .with_remedy_if(did_you_mean(text, known()))
            })
        })
    }

    /// The boolean. `None` means another type, which is reported.
    pub fn boolean(&self) -> Option<bool> {
        let boolean = self.value.get_ref().as_bool();
        self.or_expected("true or false", boolean).or_else(|| match self.inner().value.get_ref() {
            // The intended value is used for further checks, although it was reported.
            DeValue::String(text) => text.parse().ok(),
            value => value.as_bool(),
        })
    }

    /// The integer. Another type, and a number outside `bounds`, is reported.
    pub fn integer(&self, bounds: RangeInclusive<i64>) -> Option<i64> {
        let integer = self.or_expected("an integer", self.value.get_ref().as_integer())?;
        let number = i64::from_str_radix(integer.as_str(), integer.radix())
            .ok()
            .filter(|number| bounds.contains(number));
        if number.is_none() {
            let (least, max) = bounds.into_inner();
            // So large a bound tells an operator nothing.
            let remedy = if max >= i64::from(u32::MAX) {
                format!("at least {least}")
            } else {
                format!("{least} to {max}")
            };
            self.report(error(format!("{integer} is out of range")).with_remedy(remedy));
        }
        number
    }

    /// The instant: a date with time and offset, or a date alone, meaning its first second in UTC.
    pub fn instant(&self) -> Option<Timestamp> {
        if self.is_string() {
            self.report(
                error("expected a date and time, found a string")
                    .with_remedy("write it without quotes: 2027-01-01T00:00:00Z"),
            );
            return None;
        }
        let datetime = self.or_expected(
            "a date and time like 2027-01-01T00:00:00Z",
            self.value.get_ref().as_datetime(),
        )?;
        let written = datetime.to_string();
        let instant = match (datetime.date, datetime.time, datetime.offset) {
            // Without an offset, the instant would depend on the time zone of the host.
            (Some(_), Some(_), Some(_)) => written.parse().ok(),
            (Some(_), None, None) => format!("{written}T00:00:00Z").parse().ok(),
            _ => None,
        };
        if instant.is_none() {
            let finding = error(format!("{written} is no instant"));
            self.report(
                finding.with_remedy("a date and time with its offset, like 2027-01-01T00:00:00Z"),
            );
        }
        instant
    }

    /// The items of the array, in the order written. A string is reported, and read as the only
    /// item.
    pub fn items(&self) -> Option<Vec<TomlValue<'d>>> {
        if self.is_string() {
            self.unexpected("an array");
            return Some(vec![*self]);
        }
        let items = self.or_expected("an array", self.value.get_ref().as_array())?;
        Some(items.iter().map(|value| TomlValue { value, ..*self }).collect())
    }

    /// The first table, if the value is a list of tables with `[[…]]` headers.
    pub(super) fn headed(&self) -> Option<TomlValue<'d>> {
        let text = self.document.source_text.text().get(self.value.span())?;
        let value = self.value.get_ref().as_array()?.iter().next()?;
        text.starts_with("[[").then_some(TomlValue { value, ..*self })
    }

    /// The item of an array of one table.
    pub fn only_table(&self) -> Option<TomlValue<'d>> {
        Some(self.inner()).filter(|inner| self.is_array() && inner.is_table())
    }

    /// The item of an array of one, else the value itself.
    pub(super) fn inner(&self) -> TomlValue<'d> {
        let mut items = self.value.get_ref().as_array().into_iter().flat_map(|array| array.iter());
        match (items.next(), items.next()) {
            (Some(value), None) => TomlValue { value, ..*self },
            _ => *self,
        }
    }

    /// The strings of the array, each with its value. Other items are reported.
    pub fn strings(&self) -> Option<Vec<(&'d str, TomlValue<'d>)>> {
        let items = self.items()?;
        Some(items.into_iter().filter_map(|item| Some((item.string()?, item))).collect())
    }

    /// Reports that the value is not `expected`, but of another type.
    pub fn unexpected(&self, expected: &str) {
        let found = match self.value.get_ref() {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a float",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a datetime",
            DeValue::Array(_) => "an array",
            DeValue::Table(_) => "a table",
        };
        let finding = error(format!("expected {expected}, found {found}"));
        self.report(finding.with_remedy_if(self.requoted(expected)));
    }

    /// Advice to add or remove quotes or brackets, if that gives an expected value.
    fn requoted(&self, expected: &str) -> Option<String> {
        let digits =
            |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let named = |text: &str| {
            expected.contains(&format!("\"{text}\"")).then(|| format!("write \"{text}\""))
        };
        match self.value.get_ref() {
            DeValue::String(text) if expected == "an integer" && digits(text) => {
                Some(format!("write {text}, without quotes"))
            }
            DeValue::String(text)
                if expected == "true or false" && matches!(&**text, "true" | "false") =>
            {
                Some(format!("write {text}, without quotes"))
            }
            DeValue::String(text) if expected.starts_with("an array") => {
                Some(format!("write [\"{text}\"]"))
            }
            DeValue::Integer(number) => {
                named(number.as_str()).or_else(|| with_unit(expected, number.as_str()))
            }
            DeValue::Float(number) => named(number.as_str()),
            DeValue::Array(items) => Some(match items.iter().next().map(Spanned::get_ref) {
                Some(DeValue::String(text)) if items.len() == 1 => {
                    format!("write \"{text}\", without brackets")
                }
                _ if items.len() == 1 => "write it without brackets".to_owned(),
                _ => "write one value, without brackets".to_owned(),
            }),
            _ => None,
        }
    }

    /// The string. That of an array of one is reported and used.
    fn string_like(&self, expected: &str) -> Option<&'d str> {
        self.or_expected(expected, self.as_str()).or_else(|| self.inner().as_str())
    }

    pub(super) fn or_expected<T>(&self, expected: &str, found: Option<T>) -> Option<T> {
        if found.is_none() {
            self.unexpected(expected);
        }
        found
    }

    /// The bytes of the file for the bytes `within` of the string, unless escapes make the two
    /// differ.
    fn inside(&self, within: Range<usize>) -> Option<Range<usize>> {
        let span = self.value.span();
        let (raw, string) =
            (self.document.source_text.text().get(span.clone())?, self.value.get_ref().as_str()?);
        let quotes = if raw.starts_with("\"\"\"") || raw.starts_with("'''") { 3 } else { 1 };
        let plain = raw.get(quotes..raw.len().checked_sub(quotes)?)? == string;
        plain.then(|| span.start + quotes + within.start..span.start + quotes + within.end)
    }
}

/// Advice to write `number` with a unit, if `expected` has one.
fn with_unit(expected: &str, number: &str) -> Option<String> {
    let unit = if expected.contains("a duration") {
        "s"
    } else if expected.contains("a size") {
        "MiB"
    } else {
        return None;
    };
    number
        .bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| format!("with its unit, like \"{number}{unit}\""))
}
