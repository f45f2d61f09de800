//! nginx' times, sizes and rates.
//!
//! A word in, a value or nothing out: who asks says what is wrong.

use std::time::Duration;

/// `60`, `250ms`, `1h30m`, `1h 30m`: seconds where no unit stands.
pub fn time(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    let mut last = u64::MAX; // units come in falling order
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (number, after) = rest.split_at(digits);
        let end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let (unit, last_one) = match unit.strip_suffix(' ') {
            Some(unit) => (unit.trim_end_matches(' '), unit.is_empty()),
            None => (unit, false),
        };
        let milliseconds = match unit {
            "ms" => 1,
            "s" | "" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 24 * 3_600_000,
            "w" => 7 * 24 * 3_600_000,
            "M" => 30 * 24 * 3_600_000,
            "y" => 365 * 24 * 3_600_000,
            _ => return None,
        };
        if milliseconds >= last {
            return None;
        }
        // nginx takes a number that a space follows for its seconds, which are the last.
        last = if last_one { 0 } else { milliseconds };
        total = total.checked_add(Duration::from_millis(number.parse::<u64>().ok()?.checked_mul(milliseconds)?))?;
        rest = after;
    }
    (!text.is_empty()).then_some(total)
}

/// `512`, `8k`, `1m`, `2G`, in bytes.
pub fn size(text: &str) -> Option<u64> {
    let (number, unit) = match text.char_indices().next_back()? {
        (at, 'k' | 'K') => (&text[..at], 1 << 10),
        (at, 'm' | 'M') => (&text[..at], 1 << 20),
        (at, 'g' | 'G') => (&text[..at], 1 << 30),
        _ => (text, 1),
    };
    if !number.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    number.parse::<u64>().ok()?.checked_mul(unit)
}

/// `10r/s`, `30r/m`: requests, and in how long a time.
pub fn rate(text: &str) -> Option<(u32, Duration)> {
    let (number, per) = match text.strip_suffix("r/m") {
        Some(number) => (number, Duration::from_secs(60)),
        None => (text.strip_suffix("r/s")?, Duration::from_secs(1)),
    };
    let number = count(number)?;
    (number > 0).then_some((number, per))
}

/// Digits alone.
pub fn count(text: &str) -> Option<u32> {
    if text.bytes().all(|digit| digit.is_ascii_digit()) { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds_or_carry_their_units() {
        for (text, milliseconds) in
            [("60", 60_000), ("250ms", 250), ("1h30m", 5_400_000), ("1m5", 65_000), ("7d", 604_800_000), ("0", 0)]
        {
            assert_eq!(time(text), Some(Duration::from_millis(milliseconds)), "{text}");
        }
        assert_eq!(time("1h 30m"), Some(Duration::from_secs(5400)));
        assert_eq!(time("1m  5"), Some(Duration::from_secs(65)));
        for wrong in ["", "s", "1.5s", "-1", "1x", "5m1h", "1s1s", "60 s", " 5s", "99999999999999999999"] {
            assert_eq!(time(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn sizes_and_rates_are_whole_numbers() {
        for (text, bytes) in [("512", 512), ("8k", 8192), ("1M", 1 << 20), ("2g", 2 << 30), ("0", 0)] {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
        for wrong in ["", "k", "1kb", "-1", "1.5m", "18446744073709551615g"] {
            assert_eq!(size(wrong), None, "{wrong}");
        }
        assert_eq!(rate("10r/s"), Some((10, Duration::from_secs(1))));
        assert_eq!(rate("30r/m"), Some((30, Duration::from_secs(60))));
        for wrong in ["10", "0r/s", "r/s", "1.5r/s", "10r/h", "-1r/s"] {
            assert_eq!(rate(wrong), None, "{wrong}");
        }
    }
}
