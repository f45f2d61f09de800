//! Values that are written as strings with a unit: durations, sizes, rates.
//!
//! Pure: from a string to a value or a finding.

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use crate::control::config::source_text::{Finding, error};

/// Longest duration. No setting is meant to last longer, and clocks overflow at some point.
const MAX_DURATION: Duration = Duration::from_secs(366 * 24 * 3600);

/// Most tokens per second or minute. More would be no limit; the limiter counts nanoseconds between
/// tokens.
pub const MAX_TOKENS: u32 = 1_000_000;

/// Parses `"250ms" "10s" "5m" "24h"`, at most 366 days. A zero needs no unit.
pub fn duration(text: &str) -> Result<Duration, Finding> {
    let fault = || {
        error(format!("\"{text}\" is not a duration"))
            .with_remedy("a whole number and ms, s, m or h, like \"250ms\" or \"10s\"")
    };
    let (number, unit) = split(text).ok_or_else(fault)?;
    let milliseconds = match unit {
        "" if number == 0 => 0,
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(fault()),
    };
    let duration = number
        .checked_mul(milliseconds)
        .map(Duration::from_millis)
        .filter(|duration| *duration <= MAX_DURATION);
    duration.ok_or_else(|| {
        error(format!("\"{text}\" is too long")).with_remedy("at most 366 days: \"8784h\"")
    })
}

/// Parses a [`duration`] that is not zero.
pub fn positive_duration(text: &str) -> Result<Duration, Finding> {
    match duration(text)? {
        Duration::ZERO => Err(error("zero makes no sense here").with_remedy("more than \"0s\"")),
        duration => Ok(duration),
    }
}

/// Parses a duration of at least a second.
pub fn duration_from_a_second(text: &str) -> Result<Duration, Finding> {
    match duration(text)? {
        duration if duration < Duration::from_secs(1) => {
            Err(error("too short").with_remedy("\"1s\" or more"))
        }
        duration => Ok(duration),
    }
}

/// Parses a [`positive_duration`], or `"off"` as `None`.
pub fn duration_or_off(text: &str) -> Result<Option<Duration>, Finding> {
    if text == "off" {
        return Ok(None);
    }
    let remedy =
        "a whole number and ms, s, m or h, like \"60s\", up to \"8784h\"; or \"off\" for no bound";
    positive_duration(text).map(Some).map_err(|finding| finding.with_remedy(remedy))
}

/// Parses a [`size`], or `"off"` as `None`.
pub fn size_or_off(text: &str) -> Result<Option<u64>, Finding> {
    if text == "off" {
        return Ok(None);
    }
    let remedy = "a whole number and B, KiB, MiB or GiB, like \"1MiB\"; or \"off\" for no bound";
    size(text).map(Some).map_err(|finding| finding.with_remedy(remedy))
}

/// Parses `"512B" "64KiB" "1MiB" "2GiB"` to bytes. A zero needs no unit.
pub fn size(text: &str) -> Result<u64, Finding> {
    let fault = || {
        error(format!("\"{text}\" is not a size"))
            .with_remedy("a whole number and B, KiB, MiB or GiB, like \"64KiB\"")
    };
    let (number, unit) = split(text).ok_or_else(fault)?;
    let bytes = match unit {
        "" if number == 0 => 0,
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(fault()),
    };
    number.checked_mul(bytes).ok_or_else(|| error(format!("\"{text}\" is too large")))
}

/// Parses `"5/s" "300/m"`: tokens, and the time in which they are all earned.
pub fn rate(text: &str) -> Result<(NonZeroU32, Duration), Finding> {
    let fault = || {
        error(format!("\"{text}\" is not a rate"))
            .with_remedy("a whole number per second or minute, like \"5/s\" or \"300/m\"")
    };
    let (tokens, unit) = split(text).ok_or_else(fault)?;
    let per = match unit {
        "/s" => Duration::from_secs(1),
        "/m" => Duration::from_secs(60),
        _ => return Err(fault()),
    };
    let tokens =
        u32::try_from(tokens).ok().filter(|tokens| *tokens <= MAX_TOKENS).and_then(NonZeroU32::new);
    let tokens = tokens.ok_or_else(|| {
        error(format!("\"{text}\" is out of range")).with_remedy(format!("1 to {MAX_TOKENS}"))
    })?;
    Ok((tokens, per))
}

/// Parses `"500B/s" "64KiB/s"` to bytes per second, or `"off"` as `None`.
pub fn pace(text: &str) -> Result<Option<u64>, Finding> {
    if text == "off" {
        return Ok(None);
    }
    let fault = || {
        error(format!("\"{text}\" is not a pace"))
            .with_remedy("like \"500B/s\" or \"64KiB/s\", or \"off\"")
    };
    let bytes = text.strip_suffix("/s").and_then(|text| size(text).ok()).ok_or_else(fault)?;
    match bytes {
        0 => Err(error("zero makes no sense here").with_remedy("\"off\" for no bound")),
        bytes => Ok(Some(bytes)),
    }
}

/// Writes a duration as in a file, or `"off"`.
pub fn format_duration_or_off(duration: Option<Duration>) -> String {
    duration.map_or_else(|| "off".into(), format_duration)
}

/// Writes a size as in a file, or `"off"`.
pub fn format_size_or_off(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "off".into(), format_size)
}

/// Writes a pace as in a file, or `"off"`.
pub fn format_pace(pace: Option<u64>) -> String {
    pace.map_or_else(|| "off".into(), |bytes| format!("{}/s", format_size(bytes)))
}

/// Parses `"50%"` to whole percent. A zero needs no sign.
pub fn percent(text: &str) -> Result<u8, Finding> {
    let is_share =
        |number: u64, unit: &str| unit == "%" && number <= 100 || unit.is_empty() && number == 0;
    let number = split(text).filter(|(number, unit)| is_share(*number, unit));
    let fault =
        || error(format!("\"{text}\" is not a share")).with_remedy("0% to 100%, in whole percent");
    number.map(|(number, _)| number as u8).ok_or_else(fault)
}

/// Parses `"20%"` or `"300"`: a share of a total, or a number.
pub fn share_or_number(text: &str) -> Result<ShareOrCount, Finding> {
    match split(text) {
        Some((number, "%")) if number <= 100 => Ok(ShareOrCount::Percent(number as u8)),
        Some((number, "")) => {
            Ok(ShareOrCount::Count(usize::try_from(number).unwrap_or(usize::MAX)))
        }
        _ => Err(error(format!("\"{text}\" is neither a share nor a number"))
            .with_remedy("like \"20%\" or \"300\"")),
    }
}

/// Writes a duration as in a file, in the largest unit that holds it whole. Drops fractions of a
/// millisecond.
pub fn format_duration(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    let units = [(3_600_000, "h"), (60_000, "m"), (1000, "s")];
    let whole =
        units.into_iter().find(|(unit, _)| milliseconds > 0 && milliseconds.is_multiple_of(*unit));
    match whole {
        Some((unit, name)) => format!("{}{name}", milliseconds / unit),
        None if milliseconds == 0 => "0s".into(),
        None => format!("{milliseconds}ms"),
    }
}

/// Writes a size as in a file, in the largest unit that holds it whole.
pub fn format_size(bytes: u64) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let whole = units.into_iter().find(|(unit, _)| bytes > 0 && bytes.is_multiple_of(*unit));
    whole.map_or_else(|| format!("{bytes}B"), |(unit, name)| format!("{}{name}", bytes / unit))
}

/// Writes a rate as in a file.
pub fn format_rate(tokens: NonZeroU32, per: Duration) -> String {
    format!("{tokens}/{}", if per == Duration::from_secs(60) { "m" } else { "s" })
}

/// Splits a whole number (saturating at the maximum) from the rest.
fn split(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    if digits.is_empty() {
        return None;
    }
    // Saturated, so that the caller reports a number that is too large, and not a string of another
    // form.
    Some((digits.parse().unwrap_or(u64::MAX), unit))
}

/// An upper bound on a part of a total.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShareOrCount {
    /// A share of the total, in whole percent.
    Percent(u8),
    /// A number, whatever the total.
    Count(usize),
}

impl ShareOrCount {
    /// Whether `some` of `all` are more than the bound.
    pub fn is_exceeded(self, some: usize, all: usize) -> bool {
        match self {
            ShareOrCount::Percent(percent) => {
                // Multiplied and not divided: one of three is more than 33 %.
                some.saturating_mul(100) > all.saturating_mul(percent.into())
            }
            ShareOrCount::Count(number) => some > number,
        }
    }
}

impl fmt::Display for ShareOrCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ShareOrCount::Percent(percent) => write!(f, "{percent}%"),
            ShareOrCount::Count(number) => number.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use super::*;

    fn check<T: Debug>(parse: impl Fn(&str) -> Result<T, Finding>, text: &str, expected: &str) {
        let found = match parse(text) {
            Ok(value) => format!("{value:?}"),
            Err(finding) => finding.message.into_owned(),
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn durations_are_whole_numbers_of_ms_s_m_or_h() {
        check(duration, "250ms", "250ms");
        check(duration, "10s", "10s");
        check(duration, "5m", "300s");
        check(duration, "24h", "86400s");
        check(duration, "0s", "0ns");
        check(duration, "0", "0ns");
        for wrong in ["", "10", "s", "10 s", "1.5s", "-1s", "1d", "1h30m", "10S", "１s"] {
            check(duration, wrong, &format!("\"{wrong}\" is not a duration"));
        }
        check(duration, "8785h", "\"8785h\" is too long");
        check(duration, "99999999999999999999h", "\"99999999999999999999h\" is too long");
        check(positive_duration, "0ms", "zero makes no sense here");
        check(duration_or_off, "2m", "Some(120s)");
        check(duration_or_off, "off", "None");
        check(duration_or_off, "0s", "zero makes no sense here");
        check(duration_or_off, "OFF", "\"OFF\" is not a duration");
    }

    #[test]
    fn sizes_are_powers_of_1024() {
        check(size, "0B", "0");
        check(size, "0", "0");
        check(size, "64KiB", "65536");
        check(size, "1MiB", "1048576");
        check(size, "2GiB", "2147483648");
        check(size, "64KB", "\"64KB\" is not a size");
        check(size_or_off, "off", "None");
        check(size_or_off, "0B", "Some(0)");
        check(size_or_off, "none", "\"none\" is not a size");
        check(size, "64", "\"64\" is not a size");
        check(size, "99999999999GiB", "\"99999999999GiB\" is too large");
    }

    #[test]
    fn formatted_values_parse_back() {
        for text in ["0s", "1ms", "250ms", "1500ms", "10s", "75s", "5m", "90m", "24h", "8784h"] {
            assert_eq!(format_duration(duration(text).ok().unwrap()), text);
        }
        for text in ["0B", "1023B", "1KiB", "1025B", "64KiB", "1MiB", "3GiB"] {
            assert_eq!(format_size(size(text).ok().unwrap()), text);
        }
        for text in ["off", "250ms", "2m"] {
            assert_eq!(format_duration_or_off(duration_or_off(text).ok().unwrap()), text);
        }
        for text in ["off", "0B", "1MiB"] {
            assert_eq!(format_size_or_off(size_or_off(text).ok().unwrap()), text);
        }
        for text in ["5/s", "300/m"] {
            let (tokens, per) = rate(text).ok().unwrap();
            assert_eq!(format_rate(tokens, per), text);
        }
        assert_eq!(format_duration(duration("120s").ok().unwrap()), "2m");
    }

    #[test]
    fn a_bound_is_a_share_or_a_number() {
        check(percent, "50%", "50");
        check(share_or_number, "20%", "Percent(20)");
        check(share_or_number, "300", "Count(300)");
        for wrong in ["", "%", "101%", "20 %", "-1", "a fifth"] {
            check(share_or_number, wrong, &format!("\"{wrong}\" is neither a share nor a number"));
        }
        check(percent, "50", "\"50\" is not a share");
        check(percent, "0", "0");
        let exceeded =
            |bound: &str, some, all| share_or_number(bound).ok().unwrap().is_exceeded(some, all);
        assert!(exceeded("20%", 21, 100) && !exceeded("20%", 20, 100) && !exceeded("20%", 0, 0));
        assert!(exceeded("0%", 1, 100) && !exceeded("100%", 100, 100));
        assert!(exceeded("2", 3, 100) && !exceeded("2", 2, 2));
    }

    #[test]
    fn rates_are_per_second_or_minute() {
        check(rate, "5/s", "(5, 1s)");
        check(rate, "300/m", "(300, 60s)");
        check(rate, "0/s", "\"0/s\" is out of range");
        check(rate, "1000001/s", "\"1000001/s\" is out of range");
        check(rate, "5/h", "\"5/h\" is not a rate");
        check(rate, "5", "\"5\" is not a rate");
    }
}
