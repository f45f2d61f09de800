//! Formats numbers and times for the screen.

use sidegate::admin::wire::Time;

/// A number with its digits grouped: `3,102`.
pub fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// A rate per second: `0`, `0.05`, `1.2`, `3,102`.
pub fn rate(rate: f64) -> String {
    match rate {
        rate if rate <= 0.0 => "0".into(),
        rate if rate < 0.01 => "<0.01".into(),
        // The bounds are half a step below: 0.996 has to become 1.0, not 1.00.
        rate if rate < 0.995 => format!("{rate:.2}"),
        rate if rate < 9.95 => format!("{rate:.1}"),
        rate => number(rate.round() as u64),
    }
}

/// A number of bytes: `0 B`, `12 KiB`, `1.2 MiB`.
pub fn bytes(bytes: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut amount, mut unit) = (bytes.max(0.0), 0);
    // At 999.5 three digits would round up to four.
    while amount >= 999.5 && unit + 1 < units.len() {
        amount /= 1024.0;
        unit += 1;
    }
    if unit == 0 || amount >= 9.95 {
        format!("{amount:.0} {}", units[unit])
    } else {
        format!("{amount:.1} {}", units[unit])
    }
}

/// A duration, in its largest fitting unit: `12 s`, `4 min`, `3 h`, `5 days`.
pub fn duration(seconds: i64) -> String {
    match seconds.max(0) {
        seconds if seconds < 120 => format!("{seconds} s"),
        seconds if seconds < 120 * 60 => format!("{} min", seconds / 60),
        seconds if seconds < 48 * 3600 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / (24 * 3600)),
    }
}

/// A time and its age: `2026-11-22 14:03:07 UTC, 3 h ago`.
pub fn timestamp(at: Time, now: Time) -> String {
    let ago = duration(now.0.duration_since(at.0).as_secs());
    format!("{}, {ago} ago", at.0.strftime("%Y-%m-%d %H:%M:%S UTC"))
}

/// The day of a time, in UTC: `2026-11-22`.
pub fn day(at: Time) -> String {
    at.0.strftime("%Y-%m-%d").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_grouped_digits() {
        for (value, text) in
            [(0, "0"), (999, "999"), (1000, "1,000"), (32_640, "32,640"), (1_234_567, "1,234,567")]
        {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn rates_have_significant_digits_only() {
        for (value, text) in [
            (0.0, "0"),
            (0.003, "<0.01"),
            (0.05, "0.05"),
            (0.996, "1.0"),
            (1.24, "1.2"),
            (9.96, "10"),
            (12_003.4, "12,003"),
        ] {
            assert_eq!(rate(value), text);
        }
    }

    #[test]
    fn bytes_and_spans_have_fitting_units() {
        for (value, text) in [
            (0.0, "0 B"),
            (999.0, "999 B"),
            (1000.0, "1.0 KiB"),
            (12_300.0, "12 KiB"),
            (1_300_000.0, "1.2 MiB"),
        ] {
            assert_eq!(bytes(value), text);
        }
        for (value, text) in [
            (-3, "0 s"),
            (119, "119 s"),
            (240, "4 min"),
            (7200, "2 h"),
            (171_000, "47 h"),
            (432_000, "5 days"),
        ] {
            assert_eq!(duration(value), text);
        }
    }

    #[test]
    fn timestamps_are_absolute_and_relative() {
        let time = |text: &str| Time(text.parse().unwrap());
        let (at, now) = (time("2026-11-22T14:03:07.5Z"), time("2026-11-22T17:04:00Z"));
        assert_eq!(timestamp(at, now), "2026-11-22 14:03:07 UTC, 3 h ago");
        assert_eq!(day(time("2027-02-18T23:59:59Z")), "2027-02-18");
    }
}
