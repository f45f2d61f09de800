//! Durations as arguments: `90s`, `15m`, `1h` or `30d`.

use std::time::Duration;

use sidegate::control::config::parse_duration;

/// Parses a duration of whole seconds, above zero.
///
/// # Errors
/// A sentence that says what to write.
pub fn duration(text: &str) -> Result<Duration, String> {
    let duration = parse_duration(text)?;
    match duration.subsec_nanos() {
        0 => Ok(duration),
        _ => Err(format!("`{text}` has parts of a second: write 90s, 15m, 1h or 30d")),
    }
}

/// Checks a duration above zero that the agent parses.
///
/// # Errors
/// A sentence that says what to write.
pub fn period(text: &str) -> Result<String, String> {
    parse_duration(text).map(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit_and_are_above_zero() {
        for (text, seconds) in
            [("90s", 90), ("15m", 900), ("1h", 3600), ("30d", 2_592_000), ("5000ms", 5)]
        {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)));
            assert_eq!(period(text).as_deref(), Ok(text));
        }
        for text in ["", "s", "0s", "0d", "1", "-1h", "+1d", "1.5h", "1 h", "99999999999d", "1w"] {
            assert!(duration(text).is_err() && period(text).is_err(), "{text}");
        }
        assert!(duration("1ms").is_err() && period("1ms").is_ok());
    }
}
