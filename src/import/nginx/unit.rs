//! Parses nginx' times, sizes and rates.
//!
//! Each parser returns `None` for an invalid word; the caller reports the fault.

use std::time::Duration;

/// Largest number that nginx reads.
const MAX_NUMBER: u64 = i64::MAX as u64;

/// Parses `60`, `250ms`, `1h30m` or `1h 30m`; a number without a unit is in seconds.
///
/// Follows `ngx_parse_time` for milliseconds: units must come in falling order, and months and
/// years are not allowed.
pub fn time(text: &str) -> Option<Duration> {
    let (mut total, mut number, mut any) = (0_u64, 0_u64, false);
    let mut before = 0; // the rank of the unit before
    let mut rest = text.bytes().peekable();
    while let Some(byte) = rest.next() {
        if byte.is_ascii_digit() {
            number = number.checked_mul(10)?.checked_add(u64::from(byte - b'0'))?;
            number = Some(number).filter(|number| *number <= MAX_NUMBER)?;
            any = true;
            continue;
        }
        let (rank, milliseconds) = match byte {
            b'w' => (1, 7 * 24 * 3_600_000),
            b'd' => (2, 24 * 3_600_000),
            b'h' => (3, 3_600_000),
            b'm' if rest.next_if_eq(&b's').is_some() => (6, 1),
            b'm' => (4, 60_000),
            b's' | b' ' => (5, 1000),
            _ => return None,
        };
        if before >= rank {
            return None;
        }
        // nginx takes a number followed by a space for seconds; no unit may follow it.
        before = if byte == b' ' { u8::MAX } else { rank };
        total = sum(total, number, milliseconds)?;
        number = 0;
        while rest.next_if_eq(&b' ').is_some() {}
    }
    let total = sum(total, number, 1000)?;
    any.then(|| Duration::from_millis(total))
}

fn sum(total: u64, number: u64, unit: u64) -> Option<u64> {
    total.checked_add(number.checked_mul(unit)?).filter(|sum| *sum <= MAX_NUMBER)
}

/// Parses `on` or `off`, in any case.
pub fn flag(text: &str) -> Option<bool> {
    match text {
        text if text.eq_ignore_ascii_case("on") => Some(true),
        text if text.eq_ignore_ascii_case("off") => Some(false),
        _ => None,
    }
}

/// Parses `512`, `8k`, `1m` or `2G` into bytes.
pub fn size(text: &str) -> Option<u64> {
    let (digits, unit) = match text.char_indices().next_back()? {
        (at, 'k' | 'K') => (&text[..at], 1 << 10),
        (at, 'm' | 'M') => (&text[..at], 1 << 20),
        (at, 'g' | 'G') => (&text[..at], 1 << 30),
        _ => (text, 1),
    };
    number(digits)?.checked_mul(unit).filter(|size| *size <= MAX_NUMBER)
}

/// Parses `10r/s`, `30r/m`, or `10` as per second; returns requests and their period.
pub fn rate(text: &str) -> Option<(u64, Duration)> {
    let (digits, per) = match text.strip_suffix("r/m") {
        Some(digits) => (digits, Duration::from_secs(60)),
        None => (text.strip_suffix("r/s").unwrap_or(text), Duration::from_secs(1)),
    };
    let number = number(digits)?;
    (number > 0).then_some((number, per))
}

/// Parses digits alone, up to nginx' largest number.
pub fn number(text: &str) -> Option<u64> {
    let is_number = text.bytes().all(|digit| digit.is_ascii_digit());
    if is_number { text.parse().ok().filter(|number| *number <= MAX_NUMBER) } else { None }
}

/// Parses a [`number`] that fits into 32 bits.
pub fn count(text: &str) -> Option<u32> {
    number(text).and_then(|number| u32::try_from(number).ok())
}

/// Formats a duration for `sidegate.toml`, in the largest unit that divides it.
pub fn format_duration(time: Duration) -> String {
    let milliseconds = time.as_millis();
    let units = [(3_600_000, "h"), (60_000, "m"), (1000, "s"), (1, "ms")];
    let holds = |(unit, _): &(u128, &str)| milliseconds > 0 && milliseconds.is_multiple_of(*unit);
    let (unit, name) = units.into_iter().find(holds).unwrap_or((1000, "s"));
    format!("{}{name}", milliseconds / unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds_or_carry_their_units() {
        for (text, milliseconds) in [
            ("60", 60_000),
            ("250ms", 250),
            ("1h30m", 5_400_000),
            ("1m5", 65_000),
            ("7d", 604_800_000),
            ("0", 0),
        ] {
            assert_eq!(time(text), Some(Duration::from_millis(milliseconds)), "{text}");
        }
        assert_eq!(time("1h 30m"), Some(Duration::from_secs(5400)));
        assert_eq!(time("1m  5"), Some(Duration::from_secs(65)));
        for (text, seconds) in
            [("1s5", 6), ("60 5", 65), ("1m ", 60), ("1hm", 3600), ("520w", 314_496_000)]
        {
            assert_eq!(time(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(time("1ms5"), Some(Duration::from_millis(5001)));
        assert!(time("9223372036854775").is_some() && time("15250284452w").is_some());
        for wrong in [
            "", "s", "1.5s", "-1", "1x", "5m1h", "1s1s", "60 s", " 5s ", "$a", "10y", "13M", "m",
            "1d1w",
        ] {
            assert_eq!(time(wrong), None, "{wrong}");
        }
        for beyond in
            ["9223372036854776", "15250284453w", "9223372036854775807m", "99999999999999999999"]
        {
            assert_eq!(time(beyond), None, "{beyond}");
        }
    }

    #[test]
    fn sizes_and_rates_are_whole_numbers() {
        for (text, bytes) in
            [("512", 512), ("8k", 8192), ("1M", 1 << 20), ("2g", 2 << 30), ("0", 0)]
        {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
        assert_eq!(size("8589934591g"), Some(8_589_934_591 << 30));
        for wrong in ["", "k", "1kb", "-1", "1.5m", "8589934592g", "9223372036854775808"] {
            assert_eq!(size(wrong), None, "{wrong}");
        }
        assert_eq!(rate("10r/s"), Some((10, Duration::from_secs(1))));
        assert_eq!(rate("30r/m"), Some((30, Duration::from_secs(60))));
        assert_eq!(rate("10"), Some((10, Duration::from_secs(1))));
        assert_eq!(rate("5000000000r/s"), Some((5_000_000_000, Duration::from_secs(1))));
        for wrong in ["", "0r/s", "r/s", "1.5r/s", "10r/h", "-1r/s", "9223372036854775808r/s"] {
            assert_eq!(rate(wrong), None, "{wrong}");
        }
    }
}
