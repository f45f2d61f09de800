//! `sidegate explain --request`: why one request was admitted or refused, by its id.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use crate::cli::admin_client;
use crate::cli::exit::Exit;
use crate::cli::output::{count_u64, print, print_error, print_json};
use crate::cli::status::format::timestamp;
use sidegate::admin::wire::{
    DecisionReport, DecisionResult, DecisionsAnswer, DecisionsRequest, Time,
};
use sidegate::observe::printable;

/// Time for the agent's answer, which searches all decisions that are kept.
const DECISIONS_TIMEOUT: Duration = Duration::from_secs(10);

/// Prints the decisions on the request `id`, the newest first. Ends with 1 if that one is no
/// permission, or if none is kept.
pub fn explain_request(config: &Path, id: &str, json: bool) -> Exit {
    // As copied from the body of a refusal, with the quotes around it.
    let id = id.trim_matches(|c: char| c.is_whitespace() || "\"'`,".contains(c));
    let request = DecisionsRequest { request: id.to_owned() };
    let answer = match admin_client::ask(config, &request, DECISIONS_TIMEOUT) {
        Ok(answer) => answer,
        Err(failure) => {
            print_error(failure);
            return Exit::Failure;
        }
    };
    if json {
        print_json(&answer);
    } else if answer.decisions.is_empty() {
        print_error(unknown(&answer));
    } else {
        print(text(&answer));
    }
    exit(&answer)
}

/// The exit code for an answer.
pub fn exit(answer: &DecisionsAnswer) -> Exit {
    // Peers may use an id again, so the newest decision counts. A script must not take a missing
    // decision for a permission.
    match answer.decisions.first().map(|newest| &newest.result) {
        Some(DecisionResult::Permitted) => Exit::Success,
        _ => Exit::Failure,
    }
}

/// The sentence about an id without a decision.
fn unknown(answer: &DecisionsAnswer) -> String {
    // A wrong id and a dropped decision look the same here. The times tell which is likelier.
    let since = |at: Time| timestamp(at, answer.now);
    format!(
        "no decision on the request `{}` is kept\n  refusals are kept since {}\n  \
         permitted requests are kept since {}\n  older ones are not kept: see the log",
        printable::line(&answer.request),
        since(answer.refused_since),
        since(answer.permitted_since),
    )
}

fn text(answer: &DecisionsAnswer) -> String {
    let shown: Vec<_> = answer.decisions.iter().map(|one| decision(one, answer.now)).collect();
    let mut text = shown.join("\n\n");
    if answer.matching > 1 {
        let all = count_u64(answer.matching, "decision");
        // Writing to a string doesn't fail.
        let _ = write!(text, "\n\n{all} with this id, the newest first");
    }
    text
}

fn decision(one: &DecisionReport, now: Time) -> String {
    let reason = one.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    let status = one.status.map(|status| format!(" ({status})")).unwrap_or_default();
    let mut lines = format!("{}{reason}{status}, {}", one.result, timestamp(one.at, now));
    let mut line = |name: &str, value: String| {
        // Clients choose some of these texts, which must not look like another line.
        let _ = write!(lines, "\n  {name:<8}  {}", printable::line(&value));
    };
    // They differ behind a trusted proxy, which may be wrong about the client.
    let by = match one.peer == one.client {
        true => one.client.clone(),
        false => format!("{}, named by the peer {}", one.client, one.peer),
    };
    line("client", by);
    if let Some(identity) = &one.identity {
        line("identity", identity.clone());
    }
    line("asked", format!("{} {}{} at {}", one.kind, one.host, one.path, one.listener));
    if let Some(origin) = &one.origin {
        line("origin", origin.clone());
    }
    line("route", one.route.clone().unwrap_or_else(|| "none".into()));
    line("policy", policy(one));
    if let (Some(rule), Some(at)) = (&one.rule, &one.rule_at) {
        line("rule", format!("{rule} at {at}"));
    }
    if let (Some(list), Some(by)) = (&one.list, &one.by) {
        line("entry", format!("{} of {list} at {}", by.entry, by.place));
        for (name, value) in [("owner", &by.owner), ("ticket", &by.ticket)] {
            if let Some(value) = value {
                line(name, value.clone());
            }
        }
        if let Some(expires) = &by.expires {
            line("expires", format!("{expires}{}", if by.lapsed { ": lapsed" } else { "" }));
        }
    } else if one.reason.as_deref() == Some("network") {
        line("entry", "none: no list of the rule has the client".into());
    }
    if let Some(would) = &one.would_match {
        line("else", format!("{would} would admit the client"));
    }
    if let Some(ban) = &one.ban {
        let until = ban.until.map_or("for ever".into(), |until| format!("until {until}"));
        line("ban", format!("{} {until}, by {}", ban.target, ban.origin));
        line("why", ban.why.clone());
    }
    lines
}

/// The policy that judged, or why none did.
fn policy(one: &DecisionReport) -> String {
    let generation =
        one.generation.map_or("no generation".into(), |number| format!("generation {number}"));
    match &one.policy {
        Some(policy) => format!("{policy}, {generation}"),
        None if one.ban.is_some() => "none: a ban comes before policies".into(),
        None => "none: refused before any policy judged".into(),
    }
}

#[cfg(test)]
mod tests {
    use sidegate::admin::wire::BanStatus;

    use super::*;

    fn sample(name: &str) -> DecisionsAnswer {
        let samples: serde_json::Value =
            serde_json::from_str(include_str!("../admin/wire/samples.json")).unwrap();
        serde_json::from_value(samples[name]["answer"].clone()).unwrap()
    }

    #[test]
    fn refusal_is_shown_with_rule_and_entry() {
        let answer = sample("decisions");
        assert_eq!(
            text(&answer),
            "refused: network (403), 2026-11-22 17:00:00 UTC, 4 min ago\n  \
             client    192.0.2.7, named by the peer 10.0.0.1\n  \
             identity  spiffe://example.com/ws/edge\n  \
             asked     upgrade ws.example.com/chat at public\n  \
             origin    https://www.example.com\n  \
             route     chat\n  \
             policy    chat, generation 12\n  \
             rule      client.allow at policies/chat.toml:4\n  \
             entry     !192.0.2.7 of partners at policies/lists/partners.cidr:8\n  \
             owner     acme\n  \
             ticket    NET-7\n  \
             expires   2026-12-31\n  \
             else      192.0.2.0/24 would admit the client"
        );
        assert_eq!(exit(&answer), Exit::Failure);
    }

    #[test]
    fn refusal_by_a_ban_names_it_on_lines_of_its_own() {
        let mut answer = sample("decisions");
        let (one, ban) = (&mut answer.decisions[0], sample_ban());
        (one.reason, one.policy, one.ban) = (Some("banned".into()), None, Some(ban));
        let said = text(&answer);
        for line in [
            "\n  policy    none: a ban comes before policies",
            "\n  ban       192.0.2.0/24 for ever, by operator",
            "\n  why       INC-7 \u{fffd}  ban  forged",
        ] {
            assert!(said.contains(line), "{said}");
        }
    }

    fn sample_ban() -> BanStatus {
        BanStatus {
            target: "192.0.2.0/24".into(),
            until: None,
            why: "INC-7 \n  ban  forged".into(),
            origin: "operator".into(),
            since: Time(jiff::Timestamp::UNIX_EPOCH),
            by: None,
        }
    }

    #[test]
    fn unknown_id_says_how_far_back_decisions_go() {
        let mut answer = sample("decisions");
        answer.decisions.clear();
        let said = unknown(&answer);
        assert!(
            said.contains("refusals are kept since 2026-11-22 15:04:00 UTC, 2 h ago"),
            "{said}"
        );
        assert_eq!(exit(&answer), Exit::Failure);
    }

    #[test]
    fn newest_of_several_decisions_gives_the_exit_code() {
        let mut answer = sample("decisions");
        let mut newer = answer.decisions[0].clone();
        (newer.result, newer.reason) = (DecisionResult::Permitted, None);
        (answer.matching, answer.decisions) = (2, vec![newer, answer.decisions[0].clone()]);
        assert_eq!(exit(&answer), Exit::Success);
        assert!(text(&answer).ends_with("2 decisions with this id, the newest first"));
    }
}
