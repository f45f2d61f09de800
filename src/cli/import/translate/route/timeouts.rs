//! nginx' timeouts as those of a route.
//!
//! nginx has one for each side and direction. A route's `body_stall` and `write_stall` hold for
//! both sides: the longer one is taken, so that nothing is cut that nginx let go on.

use std::time::Duration;

use crate::cli::import::nginx::level::{Level, Set};
use crate::cli::import::report::Word;
use crate::cli::import::tree::Id;

/// What each of nginx' timeouts of reading and writing is, where none is given.
const DEFAULT: Duration = Duration::from_secs(60);

/// A route's `timeouts`; each is `None` for the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timeouts {
    /// `dial`
    pub dial: Option<Duration>,
    /// `response`
    pub response: Option<Duration>,
    /// `body_stall`
    pub body_stall: Option<Duration>,
    /// `write_stall`
    pub write_stall: Option<Duration>,
}

impl Timeouts {
    /// What holds at `level`. In nginx 0 is no timeout: it gives up at once, which is not carried
    /// over.
    pub fn of(level: &Level) -> Timeouts {
        Timeouts {
            dial: given(level.connect_timeout),
            response: given(level.read_timeout),
            body_stall: longer(level.read_timeout, level.body_timeout),
            write_stall: longer(level.send_timeout, level.client_timeout),
        }
    }
}

fn given(set: Option<Set<Duration>>) -> Option<Duration> {
    set.map(|set| set.value).filter(|time| !time.is_zero())
}

/// The longer of two; `None`: neither is given.
fn longer(one: Option<Set<Duration>>, other: Option<Set<Duration>>) -> Option<Duration> {
    let (one, other) = (given(one), given(other));
    one.or(other)?;
    Some(one.unwrap_or(DEFAULT).max(other.unwrap_or(DEFAULT)))
}

/// What became of each timeout of `level`, on a route with so many backends.
pub fn notes(level: &Level, backends: usize) -> Vec<(Id, Word, String)> {
    let Timeouts { body_stall, write_stall, .. } = Timeouts::of(level);
    let mut notes = Vec::new();
    let mut note = |set: Option<Set<Duration>>, say: &dyn Fn(Duration) -> (Word, &'static str)| {
        let Some(Set { id, value }) = set else { return };
        let (word, text) = match value.is_zero() {
            true => (Word::Differs, "nginx gave up at once; Sidegate keeps its default"),
            false => say(value),
        };
        notes.push((id, word, text.to_owned()));
    };
    note(level.read_timeout, &|value| reading(value, body_stall));
    note(level.body_timeout, &|value| uploading(value, body_stall));
    note(level.send_timeout, &|value| writing(value, write_stall));
    note(level.client_timeout, &|value| writing(value, write_stall));
    note(level.connect_timeout, &|_| match backends {
        0 | 1 => (Word::Carried, "`timeouts.dial` of the route"),
        _ => (Word::Differs, "`timeouts.dial` of the route, which the backends of a list share"),
    });
    notes
}

/// `proxy_read_timeout`
fn reading(value: Duration, body_stall: Option<Duration>) -> (Word, &'static str) {
    if body_stall == Some(value) {
        let text = "`timeouts.response` and `body_stall` of the route, the latter for both sides and \
                    never for a stream of events; `idle` of the policy for tunnels: no frame either \
                    way, where nginx counted bytes";
        return (Word::Carried, text);
    }
    let text = "`timeouts.response` of the route, and `idle` of the policy for tunnels: no frame \
                either way, where nginx counted bytes. `body_stall` holds for both sides: it is the \
                longer `client_body_timeout` (60 s where none is given)";
    (Word::Differs, text)
}

/// `client_body_timeout`
fn uploading(value: Duration, body_stall: Option<Duration>) -> (Word, &'static str) {
    if body_stall != Some(value) {
        let text = "`timeouts.body_stall` holds for both sides: it is the longer \
                    `proxy_read_timeout` (60 s where none is given)";
        return (Word::Differs, text);
    }
    if value > DEFAULT {
        let text = "`timeouts.body_stall` of the route; `body_pace` bounds a request's body as well: \
                    500 bytes a second over half a minute of waiting";
        return (Word::Differs, text);
    }
    (Word::Carried, "`timeouts.body_stall` of the route, for both sides")
}

/// `proxy_send_timeout` and `send_timeout`
fn writing(value: Duration, write_stall: Option<Duration>) -> (Word, &'static str) {
    if write_stall == Some(value) && value <= DEFAULT {
        let text = "`timeouts.write_stall` of the route: either side takes nothing for so long; a \
                    silent tunnel ends by `idle`";
        return (Word::Carried, text);
    }
    if write_stall == Some(value) {
        let text = "`timeouts.write_stall` of the route: either side takes nothing for so long; \
                    `body_pace` bounds answers of plain HTTP as well: 500 bytes a second over half \
                    a minute; a silent tunnel ends by `idle`";
        return (Word::Differs, text);
    }
    let text = "`timeouts.write_stall` holds for both sides: it is the longer one of \
                `proxy_send_timeout` and `send_timeout` (60 s where none is given)";
    (Word::Differs, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(read: u64, body: Option<u64>) -> Level {
        let set = |id, seconds| Set { id, value: Duration::from_secs(seconds) };
        let body_timeout = body.map(|seconds| set(1, seconds));
        Level { read_timeout: Some(set(0, read)), body_timeout, ..Level::default() }
    }

    #[test]
    fn longer_of_two_timeouts_holds_where_a_route_has_one() {
        let check = |read, body, response: Option<u64>, body_stall: Option<u64>, words: &[Word]| {
            let level = level(read, body);
            let timeouts = Timeouts::of(&level);
            assert_eq!(timeouts.response, response.map(Duration::from_secs));
            assert_eq!(timeouts.body_stall, body_stall.map(Duration::from_secs));
            let noted: Vec<_> = notes(&level, 1).into_iter().map(|(_, word, _)| word).collect();
            assert_eq!(noted, words, "{read} {body:?}");
        };
        use Word::{Carried, Differs};
        check(3600, None, Some(3600), Some(3600), &[Carried]);
        check(60, None, Some(60), Some(60), &[Carried]);
        check(10, None, Some(10), Some(60), &[Differs]);
        check(10, Some(10), Some(10), Some(10), &[Carried, Carried]);
        check(3600, Some(10), Some(3600), Some(3600), &[Carried, Differs]);
        check(10, Some(3600), Some(10), Some(3600), &[Differs, Differs]);
        check(0, None, None, None, &[Differs]);
        check(0, Some(20), None, Some(60), &[Differs, Differs]);
    }
}
