//! A duration as an argument: `90s`, `15m`, `1h` or `30d`.

use std::time::Duration;

/// Parses a duration of whole seconds, minutes, hours or days, above zero.
///
/// # Errors
/// A sentence that says what to write.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{}` is no duration: write 90s, 15m, 1h or 30d", text.escape_debug());
    let unit = match text.as_bytes().last() {
        Some(b's') => 1,
        Some(b'm') => 60,
        Some(b'h') => 3600,
        Some(b'd') => 24 * 3600,
        _ => return Err(wrong()),
    };
    let number = &text[..text.len() - 1];
    // `parse` alone would take a sign.
    if !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let seconds = number.parse().ok().and_then(|number: u32| u64::from(number).checked_mul(unit));
    seconds.filter(|seconds| *seconds > 0).map(Duration::from_secs).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit_and_are_above_zero() {
        for (text, seconds) in [("90s", 90), ("15m", 900), ("1h", 3600), ("30d", 2_592_000)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)));
        }
        for text in ["", "s", "0s", "1", "-1h", "+1h", "1.5h", "1 h", "99999999999d", "1é", "1w"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
