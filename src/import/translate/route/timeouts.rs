//! Translates nginx' timeouts into those of a route.
//!
//! nginx has a timeout per side and direction. A route's `body_stall` and `write_stall` hold for
//! both sides; the longer value is used, so that nothing is cut that nginx let go on.

use std::time::Duration;

use crate::import::nginx::context::{ContextSettings, Setting};
use crate::import::nginx::unit::format_duration;
use crate::import::report::DirectiveOutcome;
use crate::import::tree::DirectiveId;
use sidegate::snapshot::route::RouteTimeouts;

/// Default of each nginx timeout for reading and writing.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

/// Longest duration that Sidegate accepts.
pub const MAX_DURATION: Duration = Duration::from_secs(366 * 24 * 3600);

/// A route's `timeouts`; `None` means the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timeouts {
    /// Value of `dial`, from `proxy_connect_timeout`.
    pub dial: Option<Duration>,
    /// Value of `response`, from `proxy_read_timeout`.
    pub response: Option<Duration>,
    /// Value of `body_stall`, the longer of `proxy_read_timeout` and `client_body_timeout`.
    pub body_stall: Option<Duration>,
    /// Value of `write_stall`, the longer of `proxy_send_timeout` and `send_timeout`.
    pub write_stall: Option<Duration>,
}

impl Timeouts {
    /// Returns the timeouts in force under `settings`. In nginx, 0 doesn't mean unlimited: it gives
    /// up at once, which is not carried over.
    pub fn of(settings: &ContextSettings) -> Timeouts {
        Timeouts {
            dial: given(settings.connect_timeout),
            response: given(settings.read_timeout),
            body_stall: longer(settings.read_timeout, settings.body_timeout),
            write_stall: longer(settings.send_timeout, settings.client_timeout),
        }
    }
}

/// Returns the value, limited to `MAX_DURATION`. `None` means not set, or 0.
fn given(set: Option<Setting<Duration>>) -> Option<Duration> {
    set.map(|set| set.value.min(MAX_DURATION)).filter(|time| !time.is_zero())
}

/// Returns the longer of two. `None` means that neither is set.
fn longer(one: Option<Setting<Duration>>, other: Option<Setting<Duration>>) -> Option<Duration> {
    let (one, other) = (given(one), given(other));
    // If neither is set, Sidegate's own default applies.
    one.or(other)?;
    // An unset timeout has nginx' default, which may be longer than the other.
    Some(one.unwrap_or(DEFAULT_TIMEOUT).max(other.unwrap_or(DEFAULT_TIMEOUT)))
}

/// Notes the outcome of each timeout of `settings`, on a route with so many backends.
pub fn notes(
    settings: &ContextSettings,
    backends: usize,
) -> Vec<(DirectiveId, DirectiveOutcome, String)> {
    let Timeouts { body_stall, write_stall, .. } = Timeouts::of(settings);
    let default = RouteTimeouts::default();
    let mut notes = Vec::new();
    let mut note = |set: Option<Setting<Duration>>,
                    kept: String,
                    say: &dyn Fn(Duration) -> (DirectiveOutcome, String)| {
        let Some(Setting { id, value }) = set else { return };
        let (word, text) = match value {
            Duration::ZERO => {
                (DirectiveOutcome::Differs, format!("nginx gave up at once; Sidegate keeps {kept}"))
            }
            value if value > MAX_DURATION => {
                let (longest, value) = (format_duration(MAX_DURATION), format_duration(value));
                let (_, text) = say(MAX_DURATION);
                let max = format!("{longest} is the most that Sidegate takes");
                (DirectiveOutcome::Differs, format!("{text}; nginx had {value}, and {max}"))
            }
            value => say(value),
        };
        notes.push((id, word, text));
    };
    let or_off = |time: Option<Duration>| time.map_or("off".into(), format_duration);
    let (response, stall) = (or_off(default.response), or_off(body_stall.or(default.body_stall)));
    let kept =
        format!("`timeouts.response` {response}, `body_stall` {stall}, and no `idle` for tunnels");
    note(settings.read_timeout, kept, &|value| reading(value, body_stall));
    note(settings.body_timeout, format!("`timeouts.body_stall` {stall}"), &|value| {
        uploading(value, body_stall)
    });
    let kept = format!(
        "`timeouts.write_stall` {}",
        format_duration(write_stall.unwrap_or(default.write_stall))
    );
    note(settings.send_timeout, kept.clone(), &|value| writing(value, write_stall));
    note(settings.client_timeout, kept, &|value| writing(value, write_stall));
    let kept = format!("`timeouts.dial` {}", format_duration(default.dial));
    note(settings.connect_timeout, kept, &|_| match backends {
        0 | 1 => (DirectiveOutcome::Carried, "`timeouts.dial` of the route".into()),
        _ => (
            DirectiveOutcome::Differs,
            "`timeouts.dial` of the route, which the backends of a list share".into(),
        ),
    });
    notes
}

/// Describes a value that holds for both sides and differs from the given one.
fn instead(key: &str, held: Option<Duration>, value: Duration) -> String {
    let held = held.map_or("off".into(), format_duration);
    format!("`timeouts.{key}` is {held} in place of {}", format_duration(value))
}

/// Word and text for `proxy_read_timeout`.
fn reading(value: Duration, body_stall: Option<Duration>) -> (DirectiveOutcome, String) {
    if body_stall == Some(value) {
        let text = "`timeouts.response` and `body_stall` of the route, the latter for both sides and \
                    never for a stream of events; `idle` of the policy for tunnels: no frame either \
                    way, where nginx counted bytes";
        return (DirectiveOutcome::Carried, text.into());
    }
    let text = format!(
        "`timeouts.response` of the route, and `idle` of the policy for tunnels: no frame either way, \
         where nginx counted bytes. {}: it holds for both sides, and is the longer \
         `client_body_timeout` (60 s where none is given)",
        instead("body_stall", body_stall, value)
    );
    (DirectiveOutcome::Differs, text)
}

/// Word and text for `client_body_timeout`.
fn uploading(value: Duration, body_stall: Option<Duration>) -> (DirectiveOutcome, String) {
    if body_stall != Some(value) {
        let text = format!(
            "{}: it holds for both sides, and is the longer `proxy_read_timeout` (60 s where none \
             is given)",
            instead("body_stall", body_stall, value)
        );
        return (DirectiveOutcome::Differs, text);
    }
    if value > DEFAULT_TIMEOUT {
        let text = "`timeouts.body_stall` of the route; `body_pace` bounds a request's body as well: \
                    500 bytes a second over half a minute of waiting";
        return (DirectiveOutcome::Differs, text.into());
    }
    (DirectiveOutcome::Carried, "`timeouts.body_stall` of the route, for both sides".into())
}

/// Word and text for `proxy_send_timeout` and for `send_timeout`.
fn writing(value: Duration, write_stall: Option<Duration>) -> (DirectiveOutcome, String) {
    if write_stall == Some(value) && value <= DEFAULT_TIMEOUT {
        let text = "`timeouts.write_stall` of the route: either side takes nothing for so long; a \
                    silent tunnel ends by `idle`";
        return (DirectiveOutcome::Carried, text.into());
    }
    if write_stall == Some(value) {
        let text = "`timeouts.write_stall` of the route: either side takes nothing for so long; \
                    `body_pace` bounds answers of plain HTTP as well: 500 bytes a second over half \
                    a minute; a silent tunnel ends by `idle`";
        return (DirectiveOutcome::Differs, text.into());
    }
    let text = format!(
        "{}: it holds for both sides, and is the longer one of `proxy_send_timeout` and \
         `send_timeout` (60 s where none is given)",
        instead("write_stall", write_stall, value)
    );
    (DirectiveOutcome::Differs, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(read: u64, body: Option<u64>) -> ContextSettings {
        let set = |id, seconds| Setting { id, value: Duration::from_secs(seconds) };
        let body_timeout = body.map(|seconds| set(1, seconds));
        ContextSettings {
            read_timeout: Some(set(0, read)),
            body_timeout,
            ..ContextSettings::default()
        }
    }

    #[test]
    fn changed_timeout_is_reported_with_both_values() {
        let told = |settings: &ContextSettings| {
            notes(settings, 1).into_iter().map(|(_, _, text)| text).collect::<Vec<_>>().join("\n")
        };
        let years = told(&settings(3650 * 24 * 3600, Some(10)));
        for part in [
            "nginx had 87600h, and 8784h is the most",
            "`timeouts.body_stall` is 8784h in place of 10s",
        ] {
            assert!(years.contains(part), "{part} in {years}");
        }
        let zero = told(&settings(0, Some(20)));
        for part in ["`timeouts.response` 2m", "`body_stall` 1m", "is 1m in place of 20s"] {
            assert!(zero.contains(part), "{part} in {zero}");
        }
    }

    #[test]
    fn longer_of_two_timeouts_holds_where_a_route_has_one() {
        let check = |read,
                     body,
                     response: Option<u64>,
                     body_stall: Option<u64>,
                     words: &[DirectiveOutcome]| {
            let settings = settings(read, body);
            let timeouts = Timeouts::of(&settings);
            assert_eq!(timeouts.response, response.map(Duration::from_secs));
            assert_eq!(timeouts.body_stall, body_stall.map(Duration::from_secs));
            let noted: Vec<_> = notes(&settings, 1).into_iter().map(|(_, word, _)| word).collect();
            assert_eq!(noted, words, "{read} {body:?}");
        };
        use DirectiveOutcome::{Carried, Differs};
        check(3600, None, Some(3600), Some(3600), &[Carried]);
        check(60, None, Some(60), Some(60), &[Carried]);
        check(10, None, Some(10), Some(60), &[Differs]);
        check(10, Some(10), Some(10), Some(10), &[Carried, Carried]);
        check(3600, Some(10), Some(3600), Some(3600), &[Carried, Differs]);
        check(10, Some(3600), Some(10), Some(3600), &[Differs, Differs]);
        check(0, None, None, None, &[Differs]);
        let longest = MAX_DURATION.as_secs();
        check(longest, None, Some(longest), Some(longest), &[Carried]);
        check(longest + 1, None, Some(longest), Some(longest), &[Differs]);
        check(10, Some(longest + 1), Some(10), Some(longest), &[Differs, Differs]);
        check(0, Some(20), None, Some(60), &[Differs, Differs]);
    }
}
