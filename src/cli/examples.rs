//! The examples of every `--help` and manual page: literal commands, which a test parses.

use clap::Command;

/// A command line, and its purpose in an imperative sentence without a period.
pub struct Example {
    pub command: &'static str,
    pub purpose: &'static str,
}

const fn example(command: &'static str, purpose: &'static str) -> Example {
    Example { command, purpose }
}

/// The examples of each verb, by its words behind `sidegate`.
const EXAMPLES: &[(&str, &[Example])] = &[
    (
        "",
        &[
            example("sidegate demo", "See it work, without any file"),
            example(
                "sidegate init --backend http://127.0.0.1:3000 --dir /etc/sidegate",
                "Write a configuration for a backend of this host",
            ),
            example("sidegate check", "Check the files in /etc/sidegate"),
            example("sidegate run", "Serve them"),
        ],
    ),
    (
        "run",
        &[
            example("sidegate run", "Run by the files in /etc/sidegate"),
            example("sidegate run --config . --log text", "Run by the files in this directory"),
        ],
    ),
    ("demo", &[example("sidegate demo", "Run the demo until Ctrl-C")]),
    (
        "init",
        &[
            example(
                "sidegate init --backend http://127.0.0.1:3000",
                "Write to this directory, for clients of this host",
            ),
            example(
                "sidegate init --backend unix:/run/app.sock --dir /etc/sidegate \
                 --listen 0.0.0.0:443 --host ws.example.com",
                "Serve a name to the network",
            ),
            example(
                "sidegate init --backend http://127.0.0.1:3000 --plain --listen 127.0.0.1:8080",
                "Leave TLS to the proxy in front",
            ),
        ],
    ),
    (
        "import",
        &[example(
            "sidegate import nginx /etc/nginx/nginx.conf --out sidegate",
            "Translate the configuration of nginx",
        )],
    ),
    (
        "import nginx",
        &[
            example(
                "sidegate import nginx /etc/nginx/nginx.conf --out sidegate",
                "Translate the configuration of this host's nginx",
            ),
            example(
                "sidegate import nginx site.conf --out sidegate --nginx 1.29.7 --json",
                "Report as JSON, with the defaults of a newer nginx",
            ),
        ],
    ),
    (
        "list",
        &[example(
            "sidegate list from-mmdb GeoLite2-Country.mmdb --country DE \
             --out policies/lists/de.cidr",
            "Write the networks of a country to a list",
        )],
    ),
    (
        "list from-mmdb",
        &[
            example(
                "sidegate list from-mmdb GeoLite2-Country.mmdb --country DE --country AT \
                 --out policies/lists/near.cidr",
                "Write the networks of two countries to a list",
            ),
            example(
                "sidegate list from-mmdb GeoLite2-ASN.mmdb --asn 64500",
                "Print the networks of an autonomous system",
            ),
        ],
    ),
    (
        "check",
        &[
            example("sidegate check", "Check the files in /etc/sidegate"),
            example(
                "sidegate check policies/chat.toml policies/lists/office.cidr",
                "Check a policy and a list",
            ),
            example(
                "sidegate check --off-host --strict --format github sidegate",
                "Check a directory of a repository in CI, where private keys are absent",
            ),
        ],
    ),
    (
        "explain",
        &[
            example(
                "sidegate explain --client 192.0.2.7 --url wss://ws.example.com/chat \
                 --origin https://www.example.com",
                "Explain by the files why a page's visitor may open a WebSocket, or may not",
            ),
            example(
                "sidegate explain --live --peer 10.0.0.1 --forwarded-for 192.0.2.7 \
                 --url wss://ws.example.com/chat",
                "Ask the running agent about a client behind a balancer",
            ),
            example(
                "sidegate explain --request 6f1d2c3b4a596877",
                "Explain the decision on a request, by the id in its refusal",
            ),
        ],
    ),
    (
        "diff",
        &[
            example("sidegate diff", "Compare the files with the running configuration"),
            example(
                "sidegate diff --max-revoked 5%",
                "Fail if a reload would close more than 5 % of the open tunnels",
            ),
            example("sidegate diff --staged /tmp/sidegate", "Compare a copy, before it is applied"),
        ],
    ),
    (
        "apply",
        &[
            example("sidegate apply /tmp/sidegate", "Show what a copy changes, ask, and apply it"),
            example(
                "sidegate apply --yes /tmp/office.cidr",
                "Replace a list by its copy, without a question",
            ),
            example("sidegate apply --recover", "Put the files right after an interruption"),
        ],
    ),
    (
        "promote",
        &[example("sidegate promote chat", "Make policies/chat.shadow.toml the policy `chat`")],
    ),
    (
        "schema",
        &[
            example("sidegate schema", "Print one schema for both kinds of files"),
            example("sidegate schema policy", "Print the schema of policies"),
        ],
    ),
    (
        "reload",
        &[
            example("sidegate reload --wait", "Reload, and fail if the files are rejected"),
            example(
                "sidegate reload --accept-shrink partners",
                "Reload although the list `partners` has shrunk by much",
            ),
        ],
    ),
    (
        "status",
        &[
            example("sidegate status", "Show the state of the agent"),
            example("sidegate status --json", "Print it as JSON, for programs"),
        ],
    ),
    (
        "top",
        &[
            example("sidegate top", "Watch the agent"),
            example("sidegate top --once --rows 5", "Print one screen, with five rows a table"),
        ],
    ),
    (
        "log-level",
        &[
            example("sidegate log-level", "Show the filter of the log"),
            example("sidegate log-level debug --for 10m", "Log more, for ten minutes"),
            example(
                "sidegate log-level info,sidegate::data=trace",
                "Log everything about connections",
            ),
        ],
    ),
    (
        "ban",
        &[
            example(
                "sidegate ban 192.0.2.7 --for 24h --why \"INC-7: probing\"",
                "Ban an address for a day",
            ),
            example(
                "sidegate ban --identity spiffe://example.com/ws/edge --forever --why \"key lost\"",
                "Ban the bearers of a certificate's name",
            ),
        ],
    ),
    (
        "unban",
        &[
            example("sidegate unban 192.0.2.7", "Lift a ban"),
            example(
                "sidegate unban --all --origin crowdsec",
                "Lift all bans by decisions of CrowdSec",
            ),
        ],
    ),
    (
        "bans",
        &[
            example("sidegate bans", "List the bans in force"),
            example("sidegate bans --refused", "List the decisions of CrowdSec that do not hold"),
        ],
    ),
    (
        "refused",
        &[
            example("sidegate refused", "Show the refusals that are kept"),
            example("sidegate refused --last 15m --top 5", "Show those of a quarter of an hour"),
        ],
    ),
    (
        "tunnels",
        &[
            example("sidegate tunnels", "List all that is open"),
            example(
                "sidegate tunnels --route chat --sort bytes --limit 20",
                "List the 20 tunnels of a route with the most bytes",
            ),
            example(
                "sidegate tunnels --client 192.0.2.0/24 --older 1h",
                "List those of a network that are older than an hour",
            ),
        ],
    ),
    (
        "close",
        &[
            example("sidegate close --client 192.0.2.7 --dry-run", "Count a client's tunnels"),
            example(
                "sidegate close --route chat --code 1012 --reason \"back in a minute\"",
                "Close the tunnels of a route",
            ),
        ],
    ),
    (
        "lapsing",
        &[
            example("sidegate lapsing", "List the entries that lapse within 30 days"),
            example("sidegate lapsing --within 7d --json", "List those of a week, as JSON"),
        ],
    ),
    (
        "upgrade",
        &[
            example("sidegate upgrade", "Hand over to the program that a package has installed"),
            example(
                "sidegate upgrade --binary /opt/sidegate-1.2/sidegate --dry-run",
                "Try whether another program can load the files that run",
            ),
        ],
    ),
    ("drain", &[example("sidegate drain", "Close all tunnels, and end the agent")]),
];

/// The examples of the verb `path`, such as `check` or `import nginx`.
pub fn of(path: &str) -> &'static [Example] {
    EXAMPLES.iter().find(|(verb, _)| *verb == path).map_or(&[], |(_, examples)| examples)
}

/// Adds the examples of each verb to the end of its help.
pub fn add_to(command: Command) -> Command {
    added(command, "")
}

fn added(mut command: Command, path: &str) -> Command {
    // In place, since the order of the verbs is that of the help.
    for verb in command.get_subcommands_mut() {
        let path = format!("{path} {}", verb.get_name());
        *verb = added(std::mem::take(verb), path.trim_start());
    }
    // The program itself has chapters already, which follow the examples.
    let chapters = command.get_after_help().map(|help| format!("\n{help}")).unwrap_or_default();
    command.after_help(chapter(of(path)) + &chapters)
}

fn chapter(examples: &[Example]) -> String {
    let lines =
        examples.iter().map(|Example { command, purpose }| format!("  # {purpose}\n  {command}\n"));
    std::iter::once("Examples:\n".to_owned()).chain(lines).collect()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::{Cli, command};

    /// Every verb and what is below it, by its words behind `sidegate`.
    fn paths(command: &Command, path: &str) -> Vec<String> {
        let below = command
            .get_subcommands()
            .flat_map(|verb| paths(verb, format!("{path} {}", verb.get_name()).trim_start()));
        std::iter::once(path.to_owned()).chain(below).collect()
    }

    #[test]
    fn every_verb_has_examples_and_every_example_a_verb() {
        let mut with_examples: Vec<_> = EXAMPLES.iter().map(|(verb, _)| *verb).collect();
        let mut verbs = paths(&Cli::command(), "");
        with_examples.sort_unstable();
        verbs.sort_unstable();
        assert_eq!(with_examples, verbs, "each verb needs examples in src/cli/examples.rs");
    }

    #[test]
    fn every_example_is_parsed_as_its_verb() {
        for (path, examples) in EXAMPLES {
            assert!(!examples.is_empty(), "{path}");
            for example in *examples {
                let words = shlex::split(example.command).expect(example.command);
                let parsed = command().try_get_matches_from(words);
                let mut matches = &parsed.unwrap_or_else(|fault| panic!("{fault}"));
                for word in path.split_whitespace() {
                    matches = matches.subcommand_matches(word).expect(example.command);
                }
                assert!(!example.purpose.ends_with('.'), "{}", example.purpose);
            }
        }
    }

    #[test]
    fn every_help_ends_with_examples() {
        for path in paths(&Cli::command(), "") {
            let words = ["sidegate"].into_iter().chain(path.split_whitespace()).chain(["--help"]);
            let help = command().try_get_matches_from(words).expect_err("help is an error");
            assert!(help.to_string().contains("\nExamples:\n  # "), "{path}: {help}");
        }
    }
}
