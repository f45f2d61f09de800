//! `sidegate ban`: refuses a client for a while, and closes its open tunnels.

use std::time::Duration;

use crate::cli::admin_client;
use crate::cli::bans::line;
use crate::cli::config_arg::ConfigArg;
use crate::cli::duration_arg::period;
use crate::cli::exit::Exit;
use crate::cli::output::{count_u64, print, print_error, print_error_lines, print_json};
use sidegate::admin::wire::{BanAnswer, BanConflict, BanRequest};
use sidegate::observe::printable;
use sidegate::policy::ban::BanTarget;

/// Time for the agent's answer, which may wait for a slow disk.
pub const BAN_TIMEOUT: Duration = Duration::from_secs(20);

/// Arguments of `sidegate ban`.
#[derive(clap::Args)]
pub struct BanArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// An address, a network or unix:uid=33. An IPv6 address without a length bans its /64, or
    /// itself where a /64 has many hosts, as behind NAT64.
    #[arg(value_name = "CIDR", required_unless_present = "identity",
        conflicts_with = "identity", value_parser = client)]
    client: Option<String>,
    /// Ban a name of client certificates, like spiffe://example.com/ws/edge.
    #[arg(long, value_name = "ID", value_parser = identity)]
    identity: Option<String>,
    /// How long the ban lasts, like 90s, 24h or 7d. The default is one hour.
    #[arg(long = "for", value_name = "TIME", conflicts_with = "forever", value_parser = period)]
    period: Option<String>,
    /// Ban until the ban is lifted.
    #[arg(long)]
    forever: bool,
    /// The reason, for the log and for the list of bans. Clients never see it.
    #[arg(long, value_name = "TEXT")]
    why: String,
    /// Ban in spite of this test of a policy, of `peers` or of `loopback`; repeatable.
    #[arg(long = "override", value_name = "WORD")]
    overrides: Vec<String>,
    /// The program that orders the ban: operator or fail2ban.
    #[arg(long, value_name = "WORD")]
    origin: Option<String>,
    /// Print the admin socket's answer as JSON.
    #[arg(long)]
    json: bool,
}

/// Orders the ban, and prints what it ends. Ends with 1 if it was refused.
pub fn ban(verb: &BanArgs) -> Exit {
    let request = BanRequest {
        client: verb.client.clone(),
        identity: verb.identity.clone(),
        period: verb.period.clone(),
        forever: verb.forever,
        why: verb.why.clone(),
        overrides: verb.overrides.clone(),
        origin: verb.origin.clone(),
    };
    let answer = match admin_client::ask(&verb.config.config, &request, BAN_TIMEOUT) {
        Ok(answer) => answer,
        Err(failure) => {
            print_error(failure);
            return Exit::Failure;
        }
    };
    // Decided before the output, so that `--json` has the same exit codes.
    let exit = match &answer {
        BanAnswer::Banned { .. } => Exit::Success,
        BanAnswer::Refused { .. } => Exit::Failure,
    };
    if verb.json {
        print_json(&answer);
        return exit;
    }
    match &answer {
        BanAnswer::Banned { not_kept, .. } => {
            print(text(verb.client.as_deref(), &answer));
            // No failure: the ban is in force, and a script would order it again for nothing.
            not_kept.iter().for_each(|why| print_error(not_kept_sentence(why)));
        }
        BanAnswer::Refused { conflicts } => print_error_lines(&refusal(conflicts)),
    }
    exit
}

/// Checks a target, so that a wrong one is wrong usage and needs no agent.
pub fn client(text: &str) -> Result<String, String> {
    let parsed = BanTarget::parse_client(text);
    parsed.map(|_| text.to_owned()).map_err(|fault| fault.to_string())
}

/// Checks a name of certificates like [`client`].
pub fn identity(text: &str) -> Result<String, String> {
    let parsed = BanTarget::parse_identity(text);
    parsed.map(|_| text.to_owned()).map_err(|fault| fault.to_string())
}

/// The sentence about a change that a restart undoes.
pub fn not_kept_sentence(why: &str) -> String {
    format!("it holds, but not over a restart of sidegate: {}", printable::line(why))
}

/// What the ban does, for the operator.
fn text(asked: Option<&str>, answer: &BanAnswer) -> String {
    let BanAnswer::Banned { ban, replaced, tunnels, exchanges, overridden, .. } = answer else {
        return String::new();
    };
    // The agent spreads the closing over `revoke_spread`, so that nothing need be closed yet.
    let ends = match (tunnels, exchanges) {
        (0, 0) => "nothing of it is open".to_owned(),
        _ => {
            let (tunnels, exchanges) =
                (count_u64(*tunnels, "tunnel"), count_u64(*exchanges, "exchange"));
            format!("{tunnels} and {exchanges} of plain HTTP are being closed")
        }
    };
    let mut text = format!("banned: {}\n  {ends}", line(ban));
    // The answer has only the network. Whether its length was asked for, the argument shows.
    let has_no_length = asked.is_some_and(|asked| asked.contains(':') && !asked.contains('/'));
    if has_no_length && ban.target.ends_with("/64") {
        text.push_str("\n  an IPv6 address bans its /64; write /128 for the address alone");
    } else if has_no_length && ban.target.ends_with("/128") {
        text.push_str("\n  the address alone: its /64 is a translator's or a link's, with others");
    }
    if let Some(former) = replaced {
        text.push_str(&format!("\n  replaces: {}", line(former)));
    }
    for BanConflict { word, says } in overridden {
        let (word, says) = (printable::line(word), printable::line(says));
        text.push_str(&format!("\n  overridden with \"{word}\": {says}"));
    }
    text
}

/// Why nothing was banned, and what to add.
fn refusal(conflicts: &[BanConflict]) -> String {
    let mut text = "sidegate: nothing is banned:".to_owned();
    for BanConflict { word, says } in conflicts {
        // Names of tests are free text, in which a line break would look like another conflict.
        let (word, says) = (printable::line(word), printable::line(says));
        text.push_str(&format!("\n  {says}\n    if it is meant: --override \"{word}\""));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use sidegate::admin::wire::{BanStatus, Time};

    fn status(target: &str) -> BanStatus {
        let time = |text: &str| Time(text.parse().unwrap());
        BanStatus {
            target: target.into(),
            until: Some(time("2026-12-01T13:00:00Z")),
            why: "probes".into(),
            origin: "operator".into(),
            since: time("2026-12-01T12:00:00Z"),
            by: Some(0),
        }
    }

    fn banned(target: &str, replaced: Option<BanStatus>) -> BanAnswer {
        let (tunnels, exchanges, overridden, not_kept) = (2, 1, Vec::new(), None);
        BanAnswer::Banned {
            ban: status(target).into(),
            replaced: replaced.map(Box::new),
            tunnels,
            exchanges,
            overridden,
            not_kept,
        }
    }

    #[test]
    fn answer_says_what_ends_what_it_replaces_and_how_wide_it_is() {
        let text = text(Some("2001:db8::1"), &banned("2001:db8::/64", Some(status("x"))));
        for part in [
            "banned: 2001:db8::/64 until 2026-12-01T13:00:00Z, by operator (uid 0): probes",
            "2 tunnels and 1 exchange of plain HTTP are being closed",
            "an IPv6 address bans its /64",
            "replaces: x until",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn address_behind_a_translator_is_said_to_be_banned_alone() {
        let text = text(Some("64:ff9b::192.0.2.7"), &banned("64:ff9b::c000:207/128", None));
        assert!(text.contains("the address alone: its /64 is a translator's"), "{text}");
    }

    #[test]
    fn texts_from_the_wire_make_no_lines_of_their_own() {
        for line_break in ['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}', '\u{b}'] {
            let why = format!("x{line_break}198.51.100.9 for ever, by operator: y");
            let mut forged = status("192.0.2.7");
            forged.why.clone_from(&why);
            let answer = banned("192.0.2.8", Some(forged.clone()));
            let conflict = BanConflict { word: why.clone(), says: why.clone() };
            let texts = [line(&forged), not_kept_sentence(&why), refusal(&[conflict])];
            let lines = texts.map(|text| text.lines().count());
            assert_eq!(lines, [1, 1, 3], "{line_break:?}");
            assert!(!text(None, &answer).contains(&why));
        }
    }

    #[test]
    fn refusal_names_each_override() {
        let conflict = |word: &str| BanConflict { word: word.into(), says: format!("{word}!") };
        let text = refusal(&[conflict("office"), conflict("peers")]);
        assert!(text.contains("--override \"office\"") && text.contains("peers!"), "{text}");
    }
}
