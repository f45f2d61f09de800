//! A typing error gives one error, which names the right word.

use super::{SIDEGATE, check, load, now, write_all};

use crate::control::config::source::Files;
use crate::control::config::{LoadOptions, load_with_time};

/// A policy with every table and a list, each of which can be misspelt.
const POLICY: &str = r#"schema = 1

[lists]
office = { file = "lists/office.cidr", max_age = "36h", on_stale = "warn" }

[client]
allow = ["office"]

[limits]
requests = { rate = "5/s" }

[[limits.for]]
client = ["office"]

[[test]]
name = "x"
client = "192.0.2.1"
url = "wss://a.example/"
expect = "allow"
"#;

/// Checks that replacing `right` by `wrong` in `file`, whose text is `text`, gives one finding,
/// which names the word in `right`.
#[track_caller]
fn one_error(file: &str, text: &str, right: &str, wrong: &str) {
    assert!(text.contains(right), "{right}");
    let text = text.replacen(right, wrong, 1);
    let others = [("policies/chat.toml", POLICY), ("policies/lists/office.cidr", "192.0.2.0/24\n")];
    let files: Vec<_> = others.into_iter().chain([(file, &*text)]).collect();
    let (_, found) = load(&files);
    let word = right
        .split(|c: char| !c.is_ascii_lowercase() && c != '_')
        .rfind(|word| !word.is_empty())
        .unwrap();
    let said = found.matches("error: ").count() + found.matches("warning: ").count();
    assert_eq!(said, 1, "{wrong}:\n{found}");
    assert!(found.contains(&format!("did you mean `{word}`?")), "{wrong}:\n{found}");
    if !["max_age", "limits", "test", "tls", "lists", "defaults"].contains(&word) {
        assert!(
            found.lines().next().unwrap().contains(&format!("which lacks `{word}`")),
            "{wrong}:\n{found}"
        );
    }
}

#[test]
fn a_misspelt_key_or_table_of_a_policy_is_one_error() {
    for (right, wrong) in [
        ("schema", "shema"),
        ("[lists]", "[list]"),
        ("file", "fiel"),
        ("max_age", "maxage"),
        ("[client]", "[cleint]"),
        ("[client]", "[Client]"),
        ("[client]", "[clients]"),
        ("\nallow", "\nalow"),
        ("\nallow", "\nAllow"),
        ("[limits]", "[limit]"),
        ("rate", "rat"),
        ("[[limits.for]]\nclient", "[[limits.for]]\nclinet"),
        ("[[test]]", "[[tests]]"),
        ("\nname", "\nnmae"),
        ("url", "ulr"),
        ("expect", "exepct"),
    ] {
        one_error("policies/chat.toml", POLICY, right, wrong);
    }
}

#[test]
fn a_misspelt_key_or_table_of_the_baseline_is_one_error() {
    let baseline = "schema = 1\n[client]\ndeny = [\"192.0.2.1\"]\n";
    for (right, wrong) in [("schema", "shcema"), ("[client]", "[cleint]"), ("deny", "dney")] {
        let (_, found) = load(&[("policies/baseline.toml", &baseline.replacen(right, wrong, 1))]);
        let said = found.matches("error: ").count() + found.matches("warning: ").count();
        assert!(said == 1 && found.contains("did you mean `"), "{wrong}:\n{found}");
    }
}

#[test]
fn a_misspelt_key_or_table_of_the_configuration_is_one_error() {
    for (right, wrong) in [
        ("schema", "scheme"),
        ("[[listener]]", "[[listner]]"),
        ("[[listener]]", "[[listeners]]"),
        ("\nname", "\nnme"),
        ("listen ", "lisen "),
        ("tls ", "tsl "),
        ("[[route]]", "[[routes]]"),
        ("[[route]]\nname", "[[route]]\nnaem"),
        ("host", "hots"),
        ("path", "pth"),
        ("backend ", "bakcend "),
        ("policy", "polcy"),
    ] {
        one_error("sidegate.toml", SIDEGATE, right, wrong);
    }
    let in_backend = format!("{SIDEGATE}backend_tls = {{ chian = \"a.pem\", key = \"a.key\" }}\n");
    let (_, found) = load(&[("sidegate.toml", &in_backend)]);
    assert!(
        found.matches("error: ").count() == 1 && found.contains("did you mean `chain`?"),
        "{found}"
    );
    let shared = SIDEGATE
        .replace("policy = \"chat\"\n", "")
        .replace("[[route]]", "[defaults]\npolicy = \"chat\"\n[[route]]");
    for (right, wrong) in
        [("[defaults]", "[default]"), ("[defaults]", "[defualts]"), ("policy", "polcy")]
    {
        one_error("sidegate.toml", &shared, right, wrong);
    }
    let encrypted = SIDEGATE.replace("tls = false\n", "");
    let certified = format!("{encrypted}[[certificate]]\nchain = \"a.pem\"\nkey = \"a.key\"\n");
    for (right, wrong) in [
        ("[[certificate]]", "[[certifcate]]"),
        ("[[certificate]]", "[[certificates]]"),
        ("chain", "chian"),
        ("key", "kye"),
    ] {
        one_error("sidegate.toml", &certified, right, wrong);
    }
}

#[test]
fn a_key_above_the_header_of_its_table_is_one_error() {
    check(
        &[("policies/chat.toml", "schema = 1\nallow = [\"any\"]\n")],
        r#"
error: unknown key `allow` in the file
 --> policies/chat.toml:2:1
  |
2 | allow = ["any"]
  | ^^^^^
  |
  = help: write it below [client]
"#,
    );
}

#[test]
fn two_mistakes_are_two_errors() {
    let (_, found) = load(&[(
        "sidegate.toml",
        &SIDEGATE.replace("path = \"/\"\n", "").replace("policy", "polcy"),
    )]);
    assert!(found.contains("error: path: missing from [[route]]"), "{found}");
    assert_eq!(found.matches("error: ").count(), 2, "{found}");
    let (_, found) = load(&[("policies/chat.toml", "schema = 1\n[cleint]\nalow = [\"any\"]\n")]);
    assert_eq!(found.matches("error: ").count(), 1, "{found}");
}

#[test]
fn a_remedy_has_no_typographic_quotation_mark() {
    for (text, remedy) in [
        (
            SIDEGATE.replace("\"127.0.0.1:8443\"", "\u{201c}127.0.0.1:8443\u{201d}"),
            "write \"127.0.0.1:8443\"",
        ),
        (SIDEGATE.replace("\"/\"", "\u{2018}/\u{2019}"), "write \"/\""),
        (SIDEGATE.replace("\"*\"", "\u{201e}*\u{201c}"), "write \"*\""),
        (SIDEGATE.replace("\"*\"", "\"*\u{201d}"), "write plain ones"),
        (
            SIDEGATE
                .replace("\"http://127.0.0.1:8080\"", "\"\u{201c}http://127.0.0.1:8080\u{201d}\""),
            "write \"http://127.0.0.1:8080\"",
        ),
        (SIDEGATE.replace("tls = false", "tls =\u{a0}false"), "write a plain space"),
    ] {
        let (_, found) = load(&[("sidegate.toml", &text)]);
        let help: Vec<_> = found.lines().filter(|line| line.contains("= help: ")).collect();
        assert!(help.len() == 1 && help[0].contains(remedy) && help[0].is_ascii(), "{found}");
        assert_eq!(found.matches("error: ").count(), 1, "{found}");
    }
}

#[test]
fn unquoted_number_is_accepted_when_no_unit_is_needed() {
    for line in [
        "reload.max_revoked = 0",
        "reload.max_revoked = 300",
        "reload.max_widened = 300",
        "reload.revoke_spread = 0",
        "shutdown.delay = 0",
        "shutdown.spread = \"0\"",
        "admin.group = 1000",
    ] {
        check(&[("sidegate.toml", &format!("{line}\n{SIDEGATE}"))], "");
    }
    check(&[("sidegate.toml", &format!("{SIDEGATE}max_body = 0\n"))], "");
    let first = |line: &str| load(&[("sidegate.toml", &format!("{line}\n{SIDEGATE}"))]).1;
    for (line, said) in [
        ("reload.poll = 0", "poll: zero makes no sense here"),
        ("reload.poll = 30", "poll: expected a duration like \"10s\", found an integer"),
        ("shutdown.delay = 5", "delay: expected a duration like \"10s\", found an integer"),
        ("shutdown.code = \"1001\"", "code: expected an integer, found a string"),
    ] {
        assert!(first(line).starts_with(&format!("error: {said}")), "{line}: {}", first(line));
    }
    assert!(first("shutdown.code = \"1001\"").contains("write 1001, without quotes"));
    let said = first("process.threads = \"2\"");
    assert!(
        said.starts_with("error: threads: expected an integer, found a string")
            && said.contains("write 2, without quotes")
    );
    assert!(first("admin.mode = 0660").contains("put it in quotes"));
    let old = SIDEGATE.replace("tls = false", "tls_min = 1.3");
    let (_, found) = load(&[("sidegate.toml", &old)]);
    assert!(found.contains("write \"1.3\""), "{found}");
}

#[test]
fn a_file_in_another_encoding_is_named() {
    let said = |file: &str, text: &str| {
        let folder = write_all(&[
            ("policies/chat.toml", POLICY),
            ("policies/lists/office.cidr", "192.0.2.0/24\n"),
        ]);
        let wide: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        std::fs::write(folder.path().join(file), wide).unwrap();
        let config = folder.path().join("sidegate.toml");
        let found =
            load_with_time(&mut Files::for_person(), &config, LoadOptions::default(), now())
                .map(drop)
                .unwrap_err();
        found.iter().map(|one| one.message.clone()).collect::<Vec<_>>()
    };
    for mark in ["", "\u{feff}"] {
        assert_eq!(said("sidegate.toml", &format!("{mark}{SIDEGATE}")), ["the file is in UTF-16"]);
        assert_eq!(
            said("policies/chat.toml", &format!("{mark}{POLICY}")),
            ["the file is in UTF-16"]
        );
        assert_eq!(
            said("policies/lists/office.cidr", &format!("{mark}192.0.2.0/24\n")),
            ["the file is in UTF-16"]
        );
    }
}
