//! Decisions of CrowdSec's Local API, as `GET /v1/decisions/stream` answers with them.
//!
//! Pure: bytes to decisions. Which of them are applied is not decided here.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::control::crowdsec::reason::UnappliedReason;
use crate::policy::ban::{Ban, BanOrigin, BanTarget};
use crate::policy::network::fold;

/// Most characters of a scenario that are kept.
const MAX_SCENARIO: usize = 200;

/// Most characters of the reason why an answer cannot be read.
const MAX_FAULT: usize = 200;

/// An answer of the stream.
#[derive(Debug, Default)]
pub struct StreamUpdate {
    /// Decisions that hold from now on.
    pub new: Vec<CrowdsecDecision>,
    /// Keys of the decisions that hold no longer.
    pub deleted: Vec<Arc<str>>,
}

/// One decision of the Local API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CrowdsecDecision {
    /// Scope and value, behind the type if that is not `ban`: of decisions that agree in all
    /// three, the API sends the longest one alone.
    pub key: Arc<str>,
    /// Number of the decision in the database of the API.
    pub id: i64,
    /// Time at which it ends.
    pub until: Timestamp,
    /// The ban that it asks for, or why it can be none.
    pub ban: Result<Arc<Ban>, UnappliedReason>,
}

/// Why an answer is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamFault(pub String);

/// Reads an answer, decision by decision: none of them is there twice.
struct AnswerSeed {
    now: Timestamp,
}

/// Reads a list that may be `null` but not absent: an error page in JSON has no lists.
struct ListSeed<F>(F);

/// One decision as it came. Fields that newer versions add are ignored.
#[derive(Default)]
struct RawDecision<'a> {
    id: RawValue<'a>,
    duration: RawValue<'a>,
    origin: RawValue<'a>,
    scenario: RawValue<'a>,
    scope: RawValue<'a>,
    kind: RawValue<'a>,
    value: RawValue<'a>,
}

/// Any value: one decision that cannot be read must not hide all others.
#[derive(Default)]
enum RawValue<'a> {
    #[default]
    Absent,
    Number(i64),
    Text(Cow<'a, str>),
    Table(Box<RawDecision<'a>>),
    Other,
}

struct RawVisitor;

impl RawValue<'_> {
    /// The text; empty where it is absent or no text.
    fn text(&self) -> &str {
        match self {
            RawValue::Text(text) => text,
            _ => "",
        }
    }
}

impl<'de> DeserializeSeed<'de> for AnswerSeed {
    type Value = StreamUpdate;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<StreamUpdate, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for AnswerSeed {
    type Value = StreamUpdate;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table with two lists")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut table: A) -> Result<StreamUpdate, A::Error> {
        let (mut new, mut deleted) = (None, None);
        while let Some(name) = table.next_key::<Cow<'_, str>>()? {
            match &*name {
                "new" if new.is_none() => {
                    let read = |raw: RawDecision<'de>| raw.decision(self.now);
                    new = Some(table.next_value_seed(ListSeed(read))?);
                }
                "deleted" if deleted.is_none() => {
                    let read = |raw: RawDecision<'de>| Some(raw.key());
                    deleted = Some(table.next_value_seed(ListSeed(read))?);
                }
                "new" | "deleted" => return Err(A::Error::custom(format!("two lists `{name}`"))),
                _ => drop(table.next_value::<IgnoredAny>()?),
            }
        }
        let missing = |name| A::Error::missing_field(name);
        let new = new.ok_or_else(|| missing("new"))?;
        Ok(StreamUpdate { new, deleted: deleted.ok_or_else(|| missing("deleted"))? })
    }
}

impl<'de, T, F: FnMut(RawDecision<'de>) -> Option<T>> DeserializeSeed<'de> for ListSeed<F> {
    type Value = Vec<T>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Vec<T>, D::Error> {
        from.deserialize_option(self)
    }
}

impl<'de, T, F: FnMut(RawDecision<'de>) -> Option<T>> Visitor<'de> for ListSeed<F> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of decisions")
    }

    fn visit_none<E>(self) -> Result<Vec<T>, E> {
        Ok(Vec::new())
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<Vec<T>, D::Error> {
        from.deserialize_seq(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<Vec<T>, A::Error> {
        let mut all = Vec::new();
        while let Some(value) = list.next_element::<RawValue<'de>>()? {
            // A value that is no table has no key either: it is counted as unreadable.
            let raw = match value {
                RawValue::Table(raw) => *raw,
                _ => RawDecision::default(),
            };
            all.extend((self.0)(raw));
        }
        Ok(all)
    }
}

impl<'de> Deserialize<'de> for RawValue<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(RawVisitor)
    }
}

impl<'de> Visitor<'de> for RawVisitor {
    type Value = RawValue<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(RawValue::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(RawValue::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Self::Value, E> {
        Ok(RawValue::Number(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
        Ok(i64::try_from(number).map_or(RawValue::Other, RawValue::Number))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(RawValue::Other)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(RawValue::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(RawValue::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(RawValue::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut table: A) -> Result<Self::Value, A::Error> {
        let mut raw = RawDecision::default();
        while let Some(name) = table.next_key::<Cow<'_, str>>()? {
            let field = match &*name {
                "id" => &mut raw.id,
                "duration" => &mut raw.duration,
                "origin" => &mut raw.origin,
                "scenario" => &mut raw.scenario,
                "scope" => &mut raw.scope,
                "type" => &mut raw.kind,
                "value" => &mut raw.value,
                _ => {
                    table.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            *field = table.next_value()?;
        }
        Ok(RawValue::Table(Box::new(raw)))
    }
}

impl StreamFault {
    fn new(error: &serde_json::Error) -> StreamFault {
        // The text quotes the answer, which may be of any length.
        let shown: String = error.to_string().chars().take(MAX_FAULT).collect();
        StreamFault(format!("it is no list of decisions: {shown}"))
    }
}

impl StreamUpdate {
    /// Reads an answer that came at the time `now`.
    ///
    /// # Errors
    /// The bytes are no answer of the stream. A single decision that cannot be read is none.
    pub fn parse(bytes: &[u8], now: Timestamp) -> Result<StreamUpdate, StreamFault> {
        let mut json = serde_json::Deserializer::from_slice(bytes);
        let update = AnswerSeed { now }.deserialize(&mut json);
        let update = update.and_then(|update| json.end().map(|()| update));
        update.map_err(|error| StreamFault::new(&error))
    }
}

impl RawDecision<'_> {
    fn key(&self) -> Arc<str> {
        let (scope, value) = (self.scope.text().to_ascii_lowercase(), self.value.text());
        match self.is_ban() {
            true => format!("{scope}:{value}").into(),
            // Beside the ban of the same value, which ends apart from it.
            false => format!("{} {scope}:{value}", self.kind.text()).into(),
        }
    }

    /// The number; 0 where it is absent. `None` means that it cannot be read.
    fn id(&self) -> Option<i64> {
        match self.id {
            RawValue::Absent => Some(0),
            RawValue::Number(id) => Some(id),
            _ => None,
        }
    }

    fn is_ban(&self) -> bool {
        self.kind.text().eq_ignore_ascii_case("ban")
    }

    /// `None` means that the decision has ended already.
    fn decision(&self, now: Timestamp) -> Option<CrowdsecDecision> {
        let (key, id) = (self.key(), self.id());
        // An end that cannot be read keeps the decision in the list of refused ones for a while.
        let unreadable = now.checked_add(SignedDuration::from_hours(1)).unwrap_or(now);
        let (Some(left), Some(id)) = (duration(self.duration.text()), id) else {
            let (id, ban) = (id.unwrap_or_default(), Err(UnappliedReason::Unreadable));
            return Some(CrowdsecDecision { key, id, until: unreadable, ban });
        };
        if !left.is_positive() {
            return None;
        }
        let until = now.checked_add(left);
        let ban = self.target().and_then(|target| {
            let until = until.as_ref().map_err(|_| UnappliedReason::Unreadable)?;
            let why = self.why();
            let (until, origin) = (Some(*until), BanOrigin::Crowdsec);
            Ok(Arc::new(Ban { target, until, why, origin, since: now, by: None }))
        });
        Some(CrowdsecDecision { key, id, until: until.unwrap_or(unreadable), ban })
    }

    fn target(&self) -> Result<BanTarget, UnappliedReason> {
        if !self.is_ban() {
            return Err(UnappliedReason::Kind);
        }
        let is_range = self.scope.text().eq_ignore_ascii_case("range");
        if !is_range && !self.scope.text().eq_ignore_ascii_case("ip") {
            return Err(UnappliedReason::Scope);
        }
        let value = self.value.text().trim();
        let network = match value.parse::<IpAddr>() {
            // The address alone, unlike an operator's ban: a decision says how wide it is.
            Ok(address) => IpNet::from(address.to_canonical()),
            Err(_) if is_range => {
                value.parse::<IpNet>().map_err(|_| UnappliedReason::Unreadable)?.trunc()
            }
            Err(_) => return Err(UnappliedReason::Unreadable),
        };
        Ok(BanTarget::Network(fold(network)))
    }

    fn why(&self) -> Box<str> {
        // One line for a person, whatever a feed has put into it.
        let line = |text: &str| -> String {
            let shown = text.chars().take(MAX_SCENARIO);
            shown.map(|c| if c.is_control() { ' ' } else { c }).collect()
        };
        let (scenario, origin) = (line(self.scenario.text()), line(self.origin.text()));
        let id = self.id().unwrap_or_default();
        format!("{scenario} (decision {id} of {origin})").into()
    }
}

/// Parses a duration as Go writes it: `3h59m55.5s`, `-5m`, `120ms`. `None` means another form, or
/// too long.
fn duration(text: &str) -> Option<SignedDuration> {
    let (is_negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(SignedDuration::ZERO);
    }
    let mut nanoseconds: i128 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(end);
        let (unit, tail) = unit(tail)?;
        nanoseconds = nanoseconds.checked_add(scaled(number, unit)?)?;
        rest = tail;
    }
    let signed = if is_negative { -nanoseconds } else { nanoseconds };
    let seconds = i64::try_from(signed / 1_000_000_000).ok()?;
    SignedDuration::from_secs(seconds)
        .checked_add(SignedDuration::from_nanos((signed % 1_000_000_000) as i64))
}

/// The nanoseconds of the unit that `text` begins with, and what follows.
fn unit(text: &str) -> Option<(i128, &str)> {
    const UNITS: [(&str, i128); 8] = [
        ("ns", 1),
        ("us", 1_000),
        ("µs", 1_000),
        ("μs", 1_000),
        // Before `m`, which begins it.
        ("ms", 1_000_000),
        ("s", 1_000_000_000),
        ("m", 60_000_000_000),
        ("h", 3_600_000_000_000),
    ];
    UNITS.iter().find_map(|(name, size)| Some((*size, text.strip_prefix(name)?)))
}

/// A decimal number times `unit`, rounded down.
fn scaled(number: &str, unit: i128) -> Option<i128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let digits = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<i128>().ok() };
    let mut total = digits(whole)?.checked_mul(unit)?;
    // Nine digits are nanoseconds of a second. Further ones change nothing that a ban can use.
    let fraction = &fraction[..fraction.len().min(9)];
    if !fraction.is_empty() {
        total = total.checked_add(digits(fraction)? * unit / 10i128.pow(fraction.len() as u32))?;
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    fn parsed(decision: &str) -> Vec<CrowdsecDecision> {
        let text = format!("{{\"new\": [{decision}], \"deleted\": null}}");
        StreamUpdate::parse(text.as_bytes(), Timestamp::UNIX_EPOCH).unwrap().new
    }

    fn raw(scope: &str, kind: &str, value: &str, duration: &str) -> String {
        format!(
            r#"{{"id":7,"duration":"{duration}","origin":"lists:x","scenario":"crowdsecurity/ssh",
               "scope":"{scope}","type":"{kind}","value":"{value}","uuid":"u","more":[1]}}"#
        )
    }

    #[test]
    fn go_durations_are_read() {
        let milliseconds = |text: &str| duration(text).map(|one| one.as_millis());
        for (text, expected) in [
            ("3h59m55.5s", 14_395_500),
            ("-5m", -300_000),
            ("-1h2m3.25s", -3_723_250),
            ("167h59m59.123456789s", 604_799_123),
            ("120ms", 120),
            ("1.5h", 5_400_000),
            ("0s", 0),
            ("0", 0),
            ("1µs", 0),
            (".5s", 500),
            ("0.1234567890123456789s", 123),
        ] {
            assert_eq!(milliseconds(text), Some(expected), "{text}");
        }
        let huge = format!("{}h", "9".repeat(60));
        let nines = format!("{}h", "9".repeat(24));
        for text in ["", "-", "5", "h", "1x", "1h-5m", "1..5s", ".s", "4 h", &huge, &nines, "٣h"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn ban_of_an_address_or_a_range_becomes_a_ban() {
        for (scope, value, target) in [
            ("Ip", "192.0.2.7", "192.0.2.7"),
            ("ip", "2001:db8::7", "2001:db8::7/128"),
            ("IP", "::ffff:192.0.2.7", "192.0.2.7"),
            ("Range", "192.0.2.0/24", "192.0.2.0/24"),
            ("Range", "192.0.2.9/24", "192.0.2.0/24"),
            ("range", "::ffff:192.0.2.0/120", "192.0.2.0/24"),
            ("range", "0.0.0.0/0", "0.0.0.0/0"),
        ] {
            let decision = parsed(&raw(scope, "ban", value, "4h")).remove(0);
            let ban = decision.ban.unwrap();
            assert_eq!((ban.target.to_string(), ban.origin), (target.into(), BanOrigin::Crowdsec));
            assert_eq!(ban.until.map(Timestamp::as_second), Some(4 * 3600));
            assert_eq!(&*ban.why, "crowdsecurity/ssh (decision 7 of lists:x)");
        }
    }

    #[test]
    fn other_decisions_say_why_they_are_no_bans() {
        for (scope, kind, value, lasts, reason) in [
            ("Ip", "captcha", "192.0.2.7", "4h", UnappliedReason::Kind),
            ("Country", "ban", "DE", "4h", UnappliedReason::Scope),
            ("AS", "ban", "64500", "4h", UnappliedReason::Scope),
            ("Ip", "ban", "192.0.2.0/24", "4h", UnappliedReason::Unreadable),
            ("Ip", "ban", "fe80::1%eth0", "4h", UnappliedReason::Unreadable),
            ("username", "ban", "root", "4h", UnappliedReason::Scope),
            ("Ip", "throttle", "192.0.2.7", "4h", UnappliedReason::Kind),
            ("Ip", "ban", "", "4h", UnappliedReason::Unreadable),
            ("", "ban", "192.0.2.7", "4h", UnappliedReason::Scope),
            ("Range", "ban", "fe80::%eth0/64", "4h", UnappliedReason::Unreadable),
            ("Range", "ban", "192.0.2.0/33", "4h", UnappliedReason::Unreadable),
            ("Ip", "ban", "192.0.2.7", "soon", UnappliedReason::Unreadable),
            ("Ip", "ban", "192.0.2.7", "999999999999h", UnappliedReason::Unreadable),
        ] {
            let found = parsed(&raw(scope, kind, value, lasts)).remove(0).ban;
            assert_eq!(found, Err(reason), "{scope} {kind} {value} {lasts}");
        }
        assert!(parsed(&raw("Ip", "ban", "192.0.2.7", "-5m")).is_empty(), "it has ended");
    }

    #[test]
    fn decision_without_its_texts_hides_no_other() {
        let whole = raw("Ip", "ban", "192.0.2.7", "4h");
        for broken in [
            "{}".to_owned(),
            "17".to_owned(),
            "null".to_owned(),
            "[[7]]".to_owned(),
            whole.replace("\"id\":7", "\"id\":9223372036854775808"),
            whole.replace("\"id\":7", "\"id\":\"7\""),
            r#"{"id":8,"value":null,"scope":"Ip","type":"ban","duration":"4h"}"#.to_owned(),
            whole.replace("\"192.0.2.7\"", "3221225991"),
            whole.replace("\"4h\"", "[4, \"h\"]"),
            whole.replace("\"4h\"", "{\"hours\": 4}"),
            whole.replace("\"4h\"", "14400.5"),
            whole.replace("\"4h\"", "true"),
        ] {
            let decisions = parsed(&format!("{broken}, {whole}"));
            assert_eq!(decisions[0].ban, Err(UnappliedReason::Unreadable), "{broken}");
            assert!(decisions[1].ban.is_ok(), "{broken}");
        }
    }

    #[test]
    fn decisions_of_one_value_and_several_types_are_apart() {
        let kinds = ["ban", "BAN", "captcha", "throttle"];
        let keys = kinds.map(|kind| parsed(&raw("Ip", kind, "192.0.2.7", "4h")).remove(0).key);
        let expected = ["ip:192.0.2.7", "ip:192.0.2.7"];
        assert_eq!([&*keys[0], &*keys[1]], expected);
        assert_eq!([&*keys[2], &*keys[3]], ["captcha ip:192.0.2.7", "throttle ip:192.0.2.7"]);
    }

    #[test]
    fn reason_of_an_unreadable_answer_is_short() {
        let long = format!("{{\"new\": \"{}\", \"deleted\": []}}", "x".repeat(1 << 20));
        let fault = StreamUpdate::parse(long.as_bytes(), Timestamp::UNIX_EPOCH).unwrap_err();
        assert!(fault.0.len() < 300 && fault.0.contains("xxx"), "{}", fault.0.len());
    }

    #[test]
    fn deletion_names_the_decision_as_it_was_new() {
        let one = raw("Ip", "ban", "192.0.2.7", "4h");
        let text = format!("{{\"new\": [{one}], \"deleted\": [{one}]}}");
        let update = StreamUpdate::parse(text.as_bytes(), Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(update.deleted, [update.new[0].key.clone()]);
    }

    #[test]
    fn what_is_no_stream_is_an_error() {
        for text in [
            "",
            "{}",
            "[]",
            "null",
            "{\"message\": \"access forbidden\"}",
            "{\"new\": []}",
            "{\"new\": 1, \"deleted\": []}",
            "{\"new\": [], \"deleted\": [], \"new\": []}",
            "{\"new\": [], \"deleted\": []} x",
            "<html></html>",
        ] {
            let parsed = StreamUpdate::parse(text.as_bytes(), Timestamp::UNIX_EPOCH);
            assert!(parsed.is_err(), "{text}");
        }
        for text in ["{\"new\": null, \"deleted\": null}", "{\"deleted\": [], \"new\": []}"] {
            assert!(StreamUpdate::parse(text.as_bytes(), Timestamp::UNIX_EPOCH).is_ok(), "{text}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn any_text_is_read_without_a_panic(
            text in "[-+0-9.hmsnuµ]{0,24}|.{0,24}",
            bytes in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            duration(&text);
            let _ = StreamUpdate::parse(&bytes, Timestamp::UNIX_EPOCH);
            let value = serde_json::to_string(&text).unwrap();
            for scope in ["Ip", "Range"] {
                let one = format!(
                    r#"{{"id":1,"duration":{value},"origin":{value},"scenario":{value},
                       "scope":"{scope}","type":"ban","value":{value}}}"#
                );
                parsed(&one);
            }
        }
    }
}
