//! What two generations check of their own files: tests, and the supervision of lists.
//!
//! A file that drops a check, or loosens it, lets nothing in by itself, and would let in the next
//! mistake. Compares values; reads no file.

mod loosened_settings;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};

pub use self::loosened_settings::loosened_settings;
use crate::control::config::ListFeed;
use crate::control::config::effective::duration;
use crate::control::config::feed::max_shrink;
use crate::control::policy_tests::PolicyTests;
use crate::policy::widening::WiderRule;
use crate::snapshot::widening::{PartKind, WidenedPart};

/// Most tests of a policy that a sentence names.
const MAX_NAMED_TESTS: usize = 3;

/// The checks of one generation.
#[derive(Default)]
pub struct Guards {
    /// The lists that are read from files, each with its policy.
    pub feeds: Vec<(Arc<str>, ListFeed)>,
    /// The tests of the policies, of candidates and of the baseline.
    pub tests: Vec<PolicyTests>,
}

impl Guards {
    /// The checks that are looser in `to`, or gone.
    pub fn loosened(&self, to: &Guards) -> Vec<WidenedPart> {
        let mut found = Vec::new();
        for (policy, old) in &self.feeds {
            // A list that is gone is no longer denied or admitted by, which is found elsewhere.
            let same = to.feeds.iter().find(|(of, new)| of == policy && new.name == old.name);
            if let Some((_, new)) = same {
                let name: Arc<str> = format!("{} of {policy}", old.name).into();
                let rules = loosened_feed(old, new).into_iter();
                found.extend(rules.map(|rule| WidenedPart {
                    kind: PartKind::List,
                    name: Arc::clone(&name),
                    rule,
                }));
            }
        }
        found.extend(self.tests.iter().filter_map(|old| dropped_tests(old, &to.tests)));
        found
    }

    /// The supervision of the lists of `policy`, as it is written.
    pub fn supervision(&self, policy: &str) -> Value {
        let own = self.feeds.iter().filter(|(of, _)| **of == *policy);
        let lists: Map<_, _> =
            own.map(|(_, feed)| (feed.name.to_string(), written(feed))).collect();
        lists.into()
    }
}

/// The keys of a list, without its entries.
fn written(feed: &ListFeed) -> Value {
    json!({
        "max_age": feed.max_age.map(duration),
        "on_stale": if feed.rejects_stale { "reject" } else { "warn" },
        "max_shrink": feed.max_shrink.map(|share| format!("{share}%")),
        "live": feed.is_live,
    })
}

fn loosened_feed(from: &ListFeed, to: &ListFeed) -> Vec<WiderRule> {
    let mut found = Vec::new();
    let mut add = |key, what| found.push(WiderRule { key, what });
    let age = |age: Duration| format!("\"{}\"", duration(age));
    match (from.max_age, to.max_age) {
        (Some(old), None) => add("max_age", format!("unlimited instead of {}", age(old))),
        (Some(old), Some(new)) if new > old => {
            add("max_age", format!("{} instead of {}", age(new), age(old)));
        }
        _ => {}
    }
    if from.rejects_stale && !to.rejects_stale {
        add("on_stale", "accepts a list that is no longer written".to_owned());
    }
    // The default spares small lists, so that leaving the key out may loosen a high bound too.
    let (old, new) = (max_shrink(from), max_shrink(to));
    if new.share > old.share || new.spares_small && !old.spares_small {
        add("max_shrink", format!("{new} instead of {old}"));
    }
    if to.is_live && !from.is_live {
        add("live", "counts as soon as it is saved, also under watch = \"hold\"".to_owned());
    }
    found
}

/// The tests of `old` that no tests of the same policy in `all` cover. `None` means that none is
/// dropped.
fn dropped_tests(old: &PolicyTests, all: &[PolicyTests]) -> Option<WidenedPart> {
    let dropped: Vec<_> = old.missing_in(all).collect();
    let named = dropped.iter().take(MAX_NAMED_TESTS).map(|name| format!("\"{name}\""));
    let named: Vec<_> = named.collect();
    let more = match dropped.len().saturating_sub(MAX_NAMED_TESTS) {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    let verb = if dropped.len() == 1 { "is gone or expects" } else { "are gone or expect" };
    let what = format!("{}{more} {verb} something else", named.join(", "));
    let rule = WiderRule { key: "test", what };
    let name = Arc::clone(old.policy());
    (!dropped.is_empty()).then_some(WidenedPart { kind: PartKind::Policy, name, rule })
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::control::config::diagnostic::Span;

    fn feed() -> ListFeed {
        ListFeed {
            name: "banned".into(),
            file: "policies/lists/banned.cidr".into(),
            entries: 9,
            modified: None,
            max_age: Some(Duration::from_secs(3600)),
            rejects_stale: true,
            max_shrink: Some(10),
            is_live: false,
            place: Span::whole_file("policies/chat.toml".into()),
        }
    }

    /// `key: what` of each rule that `change` loosens.
    fn loosened(change: impl Fn(&mut ListFeed)) -> Vec<String> {
        let mut to = feed();
        change(&mut to);
        let guards = |feed| Guards { feeds: vec![("chat".into(), feed)], tests: Vec::new() };
        let found = guards(feed()).loosened(&guards(to)).into_iter();
        assert_eq!(guards(feed()).loosened(&guards(feed())), []);
        found
            .map(|part| {
                assert_eq!((part.kind, &*part.name), (PartKind::List, "banned of chat"));
                format!("{}: {}", part.rule.key, part.rule.what)
            })
            .collect()
    }

    #[test]
    fn looser_supervision_of_a_list_is_found() {
        let hours = |hours: u64| Some(Duration::from_secs(hours * 3600));
        assert_eq!(loosened(|to| to.max_age = None), ["max_age: unlimited instead of \"1h\""]);
        assert_eq!(loosened(|to| to.max_age = hours(2)), ["max_age: \"2h\" instead of \"1h\""]);
        assert_eq!(loosened(|to| to.max_age = Some(Duration::from_secs(9))), [""; 0]);
        let stale = loosened(|to| to.rejects_stale = false);
        assert_eq!(stale, ["on_stale: accepts a list that is no longer written"]);
        let shrunk = loosened(|to| to.max_shrink = Some(90));
        assert_eq!(shrunk, ["max_shrink: \"90%\" instead of \"10%\""]);
        let default = loosened(|to| to.max_shrink = None);
        let said = "max_shrink: \"50%\" above 100 entries instead of \"10%\"";
        assert_eq!(default, [said]);
        assert_eq!(loosened(|to| to.max_shrink = Some(5)), [""; 0]);
        assert!(loosened(|to| to.is_live = true)[0].starts_with("live: counts as soon"));
    }

    #[test]
    fn supervision_is_shown_as_written() {
        let guards = Guards { feeds: vec![("chat".into(), feed())], tests: Vec::new() };
        let written = json!({ "banned": {
            "max_age": "1h", "on_stale": "reject", "max_shrink": "10%", "live": false,
        } });
        assert_eq!(guards.supervision("chat"), written);
        assert_eq!(guards.supervision("other"), json!({}));
    }
}
