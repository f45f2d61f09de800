//! A slip gives one error, in its place and with a remedy. Tested key by key over whole files.

use std::sync::LazyLock;

use rcgen::{CertificateParams, KeyPair};

use super::defaults::{EVERYTHING, POLICY};
use super::load;
use crate::control::config::diagnostic::Diagnostic;

/// A second route and listener, so that one slip may show in two places.
const MORE: &str = r#"
[[listener]]
name = "inside"
listen = "127.0.0.1:8080"
tls = false

[[route]]
name = "other"
host = "ws.example.com"
path = "/other/"
backend = ["http://127.0.0.1:8081", "http://127.0.0.1:8082"]
policy = "market-data"
timeouts = { dial = "1s", response = "off" }

[[route]]
name = "third"
host = "*"
path = "/third"
backend = "unix:/run/app.sock"
policy = "market-data"
"#;

/// A certificate and its key.
static PAIR: LazyLock<(String, String)> = LazyLock::new(|| {
    let mut params = CertificateParams::new(vec!["ws.example.com".to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2026, 1, 1);
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
});

/// A changed file, and a description of the change.
struct Slip {
    what: String,
    text: String,
}

/// Findings in `config` and `policy`, each as a file.
fn found(config: &str, policy: &str) -> Vec<Diagnostic> {
    let (chain, key) = &*PAIR;
    let (loaded, _) = load(&[
        ("sidegate.toml", config),
        ("certs/ws.example.com.pem", chain),
        ("certs/ws.example.com.key", key),
        ("policies/market-data.toml", policy),
        ("policies/lists/partners.cidr", "203.0.113.0/24\n198.51.100.7 expires=2026-12-31\n"),
        ("policies/lists/banned.cidr", "2001:db8::/32\n"),
    ]);
    match loaded {
        Ok(loaded) => loaded.warnings,
        Err(found) => found,
    }
}

fn config() -> String {
    format!("{EVERYTHING}{MORE}")
}

/// Every line of `text` that `change` changes, each as one slip.
fn each_line(text: &str, name: &str, change: impl Fn(&str) -> Option<String>) -> Vec<Slip> {
    let lines: Vec<_> = text.lines().collect();
    let slip = |at: usize| {
        let new = change(lines[at])?;
        let mut changed: Vec<_> = lines.iter().map(ToString::to_string).collect();
        let what = format!("{name}, line {}: {} -> {new}", at + 1, lines[at]);
        changed[at] = new;
        Some(Slip { what, text: format!("{}\n", changed.join("\n")) })
    };
    (0..lines.len()).filter_map(slip).collect()
}

fn key_of(line: &str) -> Option<(&str, &str)> {
    let (key, rest) = line.split_once('=')?;
    (!line.starts_with(['#', '['])).then(|| (key.trim_end(), rest))
}

fn header_of(line: &str) -> Option<(&str, bool)> {
    let inner = line.strip_prefix('[')?.strip_suffix(']')?;
    Some(match inner.strip_prefix('[') {
        Some(name) => (name.strip_suffix(']')?, true),
        None => (inner, false),
    })
}

fn other_number(word: &str) -> String {
    match word {
        "policy" => "policies".into(),
        "policies" => "policy".into(),
        _ => word.strip_suffix('s').map_or_else(|| format!("{word}s"), str::to_owned),
    }
}

fn slips(text: &str) -> Vec<Slip> {
    let mut all = Vec::new();
    let keyed = |line: &str, change: &dyn Fn(&str) -> String| {
        let (key, rest) = key_of(line)?;
        Some(format!("{} ={rest}", change(key)))
    };
    let valued = |line: &str, change: &dyn Fn(&str) -> Option<String>| {
        let (key, value) = key_of(line)?;
        change(value.trim()).map(|value| format!("{key} = {value}"))
    };
    all.extend(each_line(text, "number of a key", |line| keyed(line, &other_number)));
    all.extend(each_line(text, "capital", |line| {
        keyed(line, &|key| format!("{}{}", key[..1].to_uppercase(), &key[1..]))
    }));
    all.extend(each_line(text, "dash", |line| {
        keyed(line, &|key| key.replace('_', "-"))
            .filter(|new| !new.starts_with(key_of(line).unwrap().0))
    }));
    all.extend(each_line(text, "letter lost", |line| {
        keyed(line, &|key| key[..key.len() - 1].to_owned()).filter(|new| !new.starts_with(' '))
    }));
    all.extend(each_line(text, "number of a header", |line| {
        let (name, many) = header_of(line)?;
        let name = other_number(name);
        Some(if many { format!("[[{name}]]") } else { format!("[{name}]") })
    }));
    all.extend(each_line(text, "brackets", |line| {
        let (name, many) = header_of(line)?;
        Some(if many { format!("[{name}]") } else { format!("[[{name}]]") })
    }));
    all.extend(each_line(text, "list", |line| {
        valued(line, &|value| (!value.starts_with('[')).then(|| format!("[{value}]")))
    }));
    all.extend(each_line(text, "no list", |line| {
        valued(line, &|value| {
            let inner = value.strip_prefix('[')?.strip_suffix(']')?;
            Some(inner.split(',').next()?.trim().to_owned()).filter(|one| !one.is_empty())
        })
    }));
    for (name, open, close) in [
        ("curled", "\u{201c}", "\u{201d}"),
        ("opening", "\u{201c}", "\""),
        ("closing", "\"", "\u{201d}"),
        ("no closing", "\"", ""),
        ("no opening", "", "\""),
        ("no quotes", "", ""),
    ] {
        all.extend(each_line(text, name, |line| {
            valued(line, &|value| {
                let from = value.find('"')?;
                let to = from + 1 + value[from + 1..].find('"')?;
                Some(format!(
                    "{}{open}{}{close}{}",
                    &value[..from],
                    &value[from + 1..to],
                    &value[to + 1..]
                ))
            })
        }));
    }
    all.extend(each_line(text, "quoted", |line| {
        valued(line, &|value| {
            (value.starts_with(|c: char| c.is_ascii_alphanumeric())).then(|| format!("\"{value}\""))
        })
    }));
    all.extend(each_line(text, "gone", |line| key_of(line).map(|_| String::new())));
    all.extend(each_line(text, "header gone", |line| header_of(line).map(|_| String::new())));
    all.extend(each_line(text, "twice", |line| {
        key_of(line)
            .map(|_| format!("{line}\n{line}"))
            .or_else(|| header_of(line).map(|_| format!("{line}\n{line}")))
    }));
    all.extend(each_line(text, "no value", |line| valued(line, &|_| Some(String::new()))));
    all.extend(each_line(text, "colon", |line| {
        key_of(line).map(|(key, rest)| format!("{key}:{rest}"))
    }));
    all.extend(each_line(text, "semicolon", |line| key_of(line).map(|_| format!("{line};"))));
    all.extend(each_line(text, "comma", |line| key_of(line).map(|_| format!("{line},"))));
    all
}

/// Checks that each of `slips` gives at most one finding, with a remedy.
#[track_caller]
fn one_each(slips: Vec<Slip>, found: impl Fn(&str) -> Vec<Diagnostic>) {
    let mut wrong = Vec::new();
    let count = slips.len();
    for Slip { what, text } in slips {
        let said = found(&text);
        let is_told = |one: &Diagnostic| one.remedy.is_some() || one.message.contains("expected");
        if said.len() > 1 || !said.iter().all(is_told) {
            let lines: Vec<_> = said.iter().map(Diagnostic::one_line).collect();
            wrong.push(format!("{what}\n    {}", lines.join("\n    ")));
        }
    }
    assert!(wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn a_slip_in_the_configuration_is_one_error_with_a_remedy() {
    let config = config();
    assert_eq!(found(&config, POLICY), []);
    one_each(slips(&config), |text| found(text, POLICY));
}

#[test]
fn a_slip_in_a_policy_is_one_error_with_a_remedy() {
    let config = config();
    one_each(slips(POLICY), |text| found(&config, text));
}

/// Checks that replacing `right` by `wrong` in `text` gives one finding, in the line `line` and
/// with a remedy that contains `remedy`.
#[track_caller]
fn one(text: &str, (right, wrong): (&str, &str), (line, remedy): (usize, &str)) {
    assert!(text.contains(right), "{right}");
    let text = text.replace(right, wrong);
    let is_policy = text.contains("[client]");
    let said = if is_policy { found(&config(), &text) } else { found(&text, POLICY) };
    let lines: Vec<_> = said.iter().map(Diagnostic::one_line).collect();
    let [one] = &said[..] else { panic!("{wrong}: {lines:#?}") };
    assert!(
        one.line == line && one.remedy.as_ref().is_some_and(|help| help.contains(remedy)),
        "{wrong}: {lines:#?}"
    );
}

#[test]
fn a_list_misspelt_where_it_is_defined_is_one_error() {
    for wrong in ["offce   =", "Office   =", "offices   ="] {
        let remedy = if wrong.starts_with('O') { "lower-case" } else { "did you mean `office`?" };
        one(POLICY, ("office   =", wrong), (5, remedy));
    }
    one(POLICY, ("banned   =", "baned   ="), (11, "did you mean `baned`, which no rule names?"));
    one(POLICY, ("partners =", "friends ="), (10, "add `partners` to [lists]"));
}

#[test]
fn a_policy_misspelt_in_all_routes_is_one_error() {
    one(&config(), ("\"market-data\"", "\"market-dta\""), (74, "did you mean `market-data`?"));
    one(&config(), ("\"market-data\"", "\"desk\""), (74, "write it"));
}

#[test]
fn keys_of_other_servers_are_translated() {
    for (right, wrong, line) in [
        ("host    =", "server_name =", 71),
        ("path    =", "location =", 72),
        ("backend =", "proxy_pass =", 73),
        ("chain =", "ssl_certificate =", 66),
        ("key   =", "ssl_certificate_key =", 67),
        ("listen = \"0.0.0.0:8443\"", "bind = \"0.0.0.0:8443\"", 54),
    ] {
        let ours = right.split(' ').next().unwrap();
        one(&config(), (right, wrong), (line, &format!("did you mean `{ours}`?")));
    }
    for (right, wrong, line) in
        [("\nallow =", "\nwhitelist =", 10), ("\ndeny  =", "\nblocklist =", 11)]
    {
        let ours = right.trim().split(' ').next().unwrap();
        one(POLICY, (right, wrong), (line, &format!("did you mean `{ours}`?")));
    }
}

#[test]
fn a_key_that_is_there_already_is_not_suggested() {
    let pinged = POLICY.replace("pong        = \"20s\"\n", "");
    one(
        &pinged,
        ("ping        = \"25s\"", "ping = \"25s\"\npng = \"20s\""),
        (26, "did you mean `pong`?"),
    );
    one(
        POLICY,
        ("ping        = \"25s\"", "ping = \"25s\"\npng = \"20s\""),
        (26, "`ping` is there already"),
    );
}

#[test]
fn swapped_path_and_paths_are_one_error() {
    one(&config(), ("path    = \"/ticks/\"", "paths = \"/ticks/\""), (72, "did you mean `path`?"));
    one(&config(), ("path = \"/third\"", "paths = \"/third\""), (101, "did you mean `path`?"));
    one(
        &config(),
        ("path = \"/third\"", "path = \"as-is\"\npath = \"/third\""),
        (101, "did you mean `paths`?"),
    );
}

#[test]
fn a_copied_table_is_one_error() {
    let route = "[[route]]\nname = \"third\"\nhost = \"*\"\npath = \"/third\"\nbackend = \"unix:/run/app.sock\"\n\
                 policy = \"market-data\"\n";
    one(&config(), (route, &format!("{route}{route}")), (105, "take another name"));
}

#[test]
fn no_misspelling_is_accepted() {
    let config = config();
    let what = ["number of a header", "header gone", "no closing", "colon", "comma", "brackets"];
    for Slip { what: name, text } in
        slips(&config).into_iter().filter(|slip| what.iter().any(|one| slip.what.starts_with(one)))
    {
        assert!(found(&text, POLICY).iter().any(Diagnostic::is_error), "{name}");
    }
}
