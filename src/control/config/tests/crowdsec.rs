//! `[crowdsec]`: its values, defaults and errors, and a key that is shown nowhere.

use serde_json::json;

use super::{SIDEGATE, load};
use crate::control::config::{LapiAddress, LoadedConfig, effective};

const KEY: &str = "s3cret-key";

fn read(table: &str) -> (Option<LoadedConfig>, String) {
    let (loaded, found) = load(&[
        ("sidegate.toml", &format!("{SIDEGATE}\n[crowdsec]\n{table}\n")),
        ("crowdsec.key", &format!("{KEY}\n")),
        ("empty.key", "\n"),
    ]);
    (loaded.ok(), found)
}

#[test]
fn defaults_are_filled_in_and_the_key_is_shown_nowhere() {
    let (loaded, found) =
        read("url = 'http://127.0.0.1:8080/lapi/'\nkey = { file = 'crowdsec.key' }");
    let settings = loaded.unwrap().settings;
    let crowdsec = settings.crowdsec.as_ref().unwrap();
    assert_eq!((crowdsec.key.reveal(), &*crowdsec.host), (KEY, "127.0.0.1:8080"));
    assert_eq!(&*crowdsec.path, "/lapi");
    assert!(matches!(&crowdsec.address, LapiAddress::Tcp { port: 8080, tls: None, .. }));
    let shown = effective::settings(&settings);
    let expected = json!({
        "url": "http://127.0.0.1:8080/lapi/", "key": { "file": "crowdsec.key" },
        "interval": "10s", "max_age": "5m", "widest_v4": 16, "widest_v6": 32,
        "total_v4": 8, "total_v6": 24, "max_revoked": "20%",
    });
    assert_eq!(shown["crowdsec"], expected);
    for text in [shown.to_string(), format!("{settings:?}"), found] {
        assert!(!text.contains(KEY), "{text}");
    }
}

#[test]
fn url_may_name_a_socket_or_a_host() {
    let key = "key = { file = 'crowdsec.key' }";
    let (loaded, _) = read(&format!("url = 'unix:/run/crowdsec.sock'\n{key}"));
    let crowdsec = loaded.unwrap().settings.crowdsec.unwrap();
    assert!(
        matches!(&crowdsec.address, LapiAddress::Unix(path) if path.ends_with("crowdsec.sock"))
    );
    let (loaded, found) = read(&format!("url = 'http://lapi.internal:8080'\n{key}"));
    assert!(loaded.is_some() && found.contains("in the clear"), "{found}");
}

#[test]
fn wrong_table_is_an_error_with_a_remedy() {
    let url = "url = 'http://127.0.0.1:8080'";
    let key = "key = { file = 'crowdsec.key' }";
    for (table, says) in [
        (key.to_owned(), "url"),
        (url.to_owned(), "key"),
        (format!("url = 'ftp://127.0.0.1'\n{key}"), "begins with http:// or https://"),
        (format!("url = '127.0.0.1:8080'\n{key}"), "Local API"),
        (format!("url = 'http://me@127.0.0.1'\n{key}"), "neither a user nor a query"),
        (format!("{url}\nkey = {{ file = 'missing.key' }}"), "missing.key"),
        (format!("{url}\nkey = {{ file = 'empty.key' }}"), "holds no key"),
        (format!("{url}\nkey = {{ file = 'a', credential = 'b' }}"), "exactly one of"),
        (format!("{url}\nkey = {{ credential = '../x' }}"), "not the name of a credential"),
        (format!("{url}\n{key}\nwidest_v4 = 0"), "1"),
        (format!("{url}\n{key}\ntotal_v4 = 33"), "32"),
        (format!("{url}\n{key}\ninterval = '10ms'"), "too short"),
        (format!("{url}\n{key}\nmax_revoked = '101%'"), "neither a share nor a number"),
    ] {
        let (loaded, found) = read(&table);
        assert!(loaded.is_none() && found.contains(says), "{table}: {found}");
    }
}
