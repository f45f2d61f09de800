//! Text and numbers on the page.
//!
//! Everything that comes from files, clients or other programs goes through [`Foreign`].

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use maud::{Markup, Render, html};

use crate::admin::wire::Time;
use crate::observe::printable;

/// Text that others wrote: one line, escaped, with a mark for each control. It has no effect on the
/// direction of the text around it.
pub struct Foreign<'t>(pub &'t str);

impl Render for Foreign<'_> {
    fn render(&self) -> Markup {
        html! { bdi { (*printable::line(self.0)) } }
    }
}

/// Renders an optional text; `None` becomes a dash.
pub fn or_dash(text: Option<&str>) -> Markup {
    html! { @match text { Some(text) => { (Foreign(text)) } None => { span.none { "–" } } } }
}

/// A number with a comma between each three digits.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let first = digits.len() % 3;
    let mut shown = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && index % 3 == first {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

/// A number with its noun: "1 error", "2 errors".
pub fn counted(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", count(number), if number == 1 { "" } else { "s" })
}

/// A number each second, with three digits at most before larger ones are whole.
pub fn rate(each_second: f64) -> String {
    match each_second {
        rate if rate >= 100.0 => count(rate.round() as u64),
        rate if rate >= 10.0 => format!("{rate:.1}"),
        rate if rate >= 0.005 => format!("{rate:.2}"),
        rate if rate > 0.0 => "<0.01".to_owned(),
        _ => "0".to_owned(),
    }
}

/// A number of bytes, in powers of 1000.
pub fn bytes(number: f64) -> String {
    let mut units = ["B", "kB", "MB", "GB", "TB", "PB"].into_iter();
    let (mut number, mut unit) = (number.max(0.0), units.next().unwrap_or_default());
    // 999.5 would be shown as 1000.
    while number >= 999.5 {
        let Some(next) = units.next() else { break };
        (number, unit) = (number / 1000.0, next);
    }
    match unit {
        "B" => format!("{number:.0} B"),
        _ if number >= 99.95 => format!("{number:.0} {unit}"),
        _ => format!("{number:.1} {unit}"),
    }
}

/// A time span in its largest units: "3 d 4 h".
pub fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min"),
        (0, _, 0) => format!("{hours} h"),
        (0, _, _) => format!("{hours} h {minutes} min"),
        (_, 0, _) => format!("{days} d"),
        _ => format!("{days} d {hours} h"),
    }
}

/// The time from `from` to `until`, or nothing if it has passed.
pub fn until(from: Time, until: Time) -> Duration {
    Duration::try_from(until.0.duration_since(from.0)).unwrap_or_default()
}

/// A moment in UTC; of the day of `now`, its time alone.
pub fn moment(at: Time, now: Time) -> Markup {
    let zoned = |time: Timestamp| time.to_zoned(TimeZone::UTC);
    let form =
        if zoned(at.0).date() == zoned(now.0).date() { "%H:%M:%S" } else { "%Y-%m-%d %H:%M" };
    html! { time datetime=(at) { (zoned(at.0).strftime(form)) } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_stays_text_with_visible_controls() {
        for (text, shown) in [
            ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
            ("\"><img src=x onerror=a>", "&quot;&gt;&lt;img src=x onerror=a&gt;"),
            ("a&lt;b", "a&amp;lt;b"),
            ("a\u{202e}b\u{2066}c", "a\u{fffd}b\u{fffd}c"),
            ("a\r\nid: 1\n\n\u{2028}b", "a\u{fffd}\u{fffd}id: 1\u{fffd}\u{fffd}\u{fffd}b"),
            ("\u{1b}[2J\0", "\u{fffd}[2J\u{fffd}"),
            ("Grüße, שלום", "Grüße, שלום"),
        ] {
            assert_eq!(Foreign(text).render().into_string(), format!("<bdi>{shown}</bdi>"));
        }
    }

    #[test]
    fn numbers_are_short_and_grouped() {
        let counts = [0, 12, 999, 1000, 123_456, 1_234_567].map(count);
        assert_eq!(counts, ["0", "12", "999", "1,000", "123,456", "1,234,567"]);
        assert_eq!([counted(1, "ban"), counted(1000, "ban")], ["1 ban", "1,000 bans"]);
        let rates = [0.0, 0.001, 0.05, 1.5, 12.34, 1234.4].map(rate);
        assert_eq!(rates, ["0", "<0.01", "0.05", "1.50", "12.3", "1,234"]);
        let sizes = [0.0, 999.0, 999.6, 1e3, 99_960.0, 123_456.0, 1.26e6, 2e18].map(bytes);
        let shown = ["0 B", "999 B", "1.0 kB", "1.0 kB", "100 kB", "123 kB", "1.3 MB", "2000 PB"];
        assert_eq!(sizes, shown);
        let spans = [0, 59, 60, 3599, 3600, 3660, 86_400, 90_000, 900_000];
        let shown =
            ["0 s", "59 s", "1 min", "59 min", "1 h", "1 h 1 min", "1 d", "1 d 1 h", "10 d 10 h"];
        assert_eq!(spans.map(|seconds| span(Duration::from_secs(seconds))), shown);
    }

    #[test]
    fn moment_of_today_has_no_date() {
        let now = Time("2026-12-01T08:00:00Z".parse().unwrap());
        let shown = |at: &str| moment(Time(at.parse().unwrap()), now).into_string();
        let today = "<time datetime=\"2026-12-01T07:59:58Z\">07:59:58</time>";
        assert_eq!(shown("2026-12-01T07:59:58Z"), today);
        assert!(shown("2026-11-30T07:59:58Z").ends_with(">2026-11-30 07:59</time>"));
    }
}
