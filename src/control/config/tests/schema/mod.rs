//! The schemas match the readers: the same keys and defaults, and no valid file is flagged.

mod reader;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use serde_json::Value;

use self::reader::{faults, resolve};
use super::defaults::{EVERYTHING, POLICY as EVERY_RULE};
use crate::control::config::document::TomlTable;
use crate::control::config::keys::FileKind;
use crate::control::config::schema::{CONFIG, POLICY, both};

static OF_CONFIG: LazyLock<Value> = LazyLock::new(|| read(CONFIG));
static OF_POLICY: LazyLock<Value> = LazyLock::new(|| read(POLICY));
static OF_BOTH: LazyLock<Value> = LazyLock::new(both);

fn read(schema: &str) -> Value {
    serde_json::from_str(schema).unwrap()
}

/// A TOML value as JSON ValueSchema sees it: times are strings.
fn seen(value: toml::Value) -> Value {
    match value {
        toml::Value::Datetime(time) => time.to_string().into(),
        toml::Value::Array(items) => items.into_iter().map(seen).collect(),
        toml::Value::Table(table) => {
            table.into_iter().map(|(key, value)| (key, seen(value))).collect()
        }
        plain => serde_json::to_value(plain).unwrap(),
    }
}

/// Faults in `text` by the schema `of`. Checks that the schema of both kinds of file finds no
/// others.
fn flagged(of: &Value, text: &str) -> Vec<String> {
    let file = seen(toml::Value::Table(text.trim_start_matches('\u{feff}').parse().unwrap()));
    let found = faults(of, of, &file, "");
    let by_both = faults(&OF_BOTH, &OF_BOTH, &file, "");
    assert!(
        !found.is_empty() || by_both.is_empty(),
        "sound by its own schema alone: {by_both:?}\n{text}"
    );
    found
}

/// Checks that the schemas flag nothing in the files of `folder`, which load without errors.
pub fn expect_all_valid(folder: &Path) {
    let text = |path: &Path| -> String { fs::read_to_string(path).unwrap() };
    let mut files: Vec<(&Value, String)> = vec![(&OF_CONFIG, text(&folder.join("sidegate.toml")))];
    let named = |path: &Path| path.to_str().is_some_and(|path| path.ends_with(".toml"));
    let all = fs::read_dir(folder.join("policies")).unwrap().map(|entry| entry.unwrap().path());
    let is_ignored = |path: &Path| {
        path.file_name().unwrap().to_string_lossy().starts_with(|c: char| !c.is_ascii_lowercase())
    };
    files.extend(
        all.filter(|path| named(path) && !is_ignored(path)).map(|path| (&*OF_POLICY, text(&path))),
    );
    for (of, text) in files {
        assert_eq!(flagged(of, &text), <[String; 0]>::default(), "{text}");
    }
}

/// Every key in `schema`, as a path, with its own schema.
pub fn keys(schema: &Value) -> BTreeMap<String, Value> {
    let mut keys = BTreeMap::new();
    walk(schema, schema, "", &mut keys);
    keys
}

fn walk(root: &Value, at: &Value, path: &str, keys: &mut BTreeMap<String, Value>) {
    if at["$ref"].is_string() {
        walk(root, resolve(root, &at["$ref"]), path, keys);
    }
    at["anyOf"].as_array().into_iter().flatten().for_each(|one| walk(root, one, path, keys));
    if at["items"].is_object() {
        walk(root, &at["items"], &format!("{path}[]"), keys);
    }
    let dot = if path.is_empty() { "" } else { "." };
    for (key, below) in at["properties"].as_object().into_iter().flatten() {
        keys.insert(format!("{path}{dot}{key}"), below.clone());
        walk(root, below, &format!("{path}{dot}{key}"), keys);
    }
    if at["additionalProperties"].is_object() {
        walk(root, &at["additionalProperties"], &format!("{path}{dot}*"), keys);
    }
}

#[test]
fn schema_files_are_those_of_the_declarations() {
    for (file, path, written) in
        [(FileKind::Config, "config.json", CONFIG), (FileKind::Policy, "policy.json", POLICY)]
    {
        let made = file.json_schema();
        if std::env::var_os("SIDEGATE_WRITE_DOCS").is_some() {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/control/config/schema");
            fs::write(folder.join(path), made).unwrap();
            continue;
        }
        let differing = written.lines().zip(made.lines()).find(|(written, made)| written != made);
        assert!(
            written == made,
            "{path}: {differing:?}; SIDEGATE_WRITE_DOCS=1 cargo test --lib schema_files"
        );
    }
}

#[test]
fn the_schema_has_every_key_that_is_read_and_no_other() {
    // Keys of a table are only read if the table is there.
    let [config, policy] = [FileKind::Config, FileKind::Policy].map(FileKind::complete);
    let files = [("sidegate.toml", &*config), ("policies/market-data.toml", &policy)];
    let asked = TomlTable::record_keys(|| drop(super::load(&files)));
    let of = |file: &str| -> BTreeSet<String> {
        let of_file = asked.iter().filter(|(asked, _)| asked.ends_with(file));
        // Names of lists are free, so they have no keys of their own in the schema.
        of_file.map(|(_, path)| path.replace("lists.partners.", "lists.*.")).collect()
    };
    for (file, kind) in
        [("sidegate.toml", FileKind::Config), ("market-data.toml", FileKind::Policy)]
    {
        assert_eq!(of(file), keys(&read(&kind.json_schema())).into_keys().collect(), "{file}");
    }
}

#[test]
fn every_key_is_explained() {
    for schema in [CONFIG, POLICY] {
        let root = read(schema);
        for (path, key) in keys(&root) {
            let named = key.get("$ref").map(|reference| resolve(&root, reference));
            // Editors ignore other keywords beside `$ref`.
            assert!(named.is_none() || key.as_object().unwrap().len() == 1, "{path}");
            let told = key["description"]
                .as_str()
                .or(named.and_then(|named| named["description"].as_str()));
            assert!(told.is_some_and(|told| told.ends_with(['.', ')'])), "{path}: {told:?}");
        }
    }
}

#[test]
fn shared_keys_have_one_schema_definition() {
    let (config, policy) = (read(CONFIG), read(POLICY));
    let shared = config["$defs"]
        .as_object()
        .unwrap()
        .iter()
        .filter(|(name, _)| policy["$defs"].get(name.as_str()).is_some());
    let names: Vec<_> = shared
        .map(|(name, one)| {
            assert_eq!(one, &policy["$defs"][name]);
            name
        })
        .collect();
    assert_eq!(names, ["name", "schema"]);
    assert!(
        ["config", "policy"]
            .iter()
            .all(|name| config["$defs"].get(name).is_none() && policy["$defs"].get(name).is_none())
    );
}

#[test]
fn only_a_baseline_is_valid_without_allow() {
    let baseline =
        "schema = 1\n[lists]\nbanned = [\"192.0.2.0/24\"]\n[client]\ndeny = [\"banned\"]\n";
    assert_eq!(flagged(&OF_POLICY, baseline), <[String; 0]>::default());
    for unsound in
        ["schema = 1\n", "schema = 1\n[client]\n", &format!("{baseline}origins = [\"none\"]\n")]
    {
        assert_ne!(flagged(&OF_POLICY, unsound), <[String; 0]>::default(), "{unsound}");
    }
    assert_ne!(
        flagged(&OF_POLICY, &format!("{baseline}[limits]\nidle = \"1m\"\n")),
        <[String; 0]>::default()
    );
}

/// Checks that replacing `was` by `is` in a valid file is flagged.
#[track_caller]
fn unsound(of: &Value, sound: &str, was: &str, is: &str) {
    assert!(sound.contains(was), "{was}");
    assert_ne!(flagged(of, &sound.replacen(was, is, 1)), <[String; 0]>::default(), "{was} → {is}");
}

#[test]
fn schema_flags_invalid_configurations() {
    assert_eq!(flagged(&OF_CONFIG, EVERYTHING), <[String; 0]>::default());
    for (was, is) in [
        ("schema = 1", "schema = 2"),
        ("schema = 1", ""),
        ("[metrics]", "[metric]"),
        ("mode   = \"0660\"", "mode = \"0668\""),
        ("watch         = \"auto\"", "watch = \"inotify\""),
        ("poll          = \"30s\"", "poll = \"30\""),
        ("poll          = \"30s\"", "poll = \"0s\""),
        ("poll          = \"30s\"", "poll = 30"),
        ("code     = 1001", "code = 1000"),
        ("threads = \"auto\"", "threads = 0"),
        ("name   = \"public\"", "name = \"Public\""),
        ("name   = \"public\"", "name = \"any\""),
        ("listen = \"0.0.0.0:8443\"", ""),
        ("listen = \"0.0.0.0:8443\"", "listen = \"unix:run/a.sock\""),
        ("tls    = true", "tls = \"true\""),
        ("tls_min = \"1.2\"", "tls_min = \"1.1\""),
        ("http2  = false", "http2 = true"),
        ("http2  = false", "proxy_protocol = { from = [] }"),
        ("http2  = false", "proxy_protocol = { from = [\"partners\"] }"),
        ("http2  = false", "proxy_protocol = { from = \"10.0.0.0/8\" }"),
        ("http2  = false", "proxy_protocol = { form = [\"10.0.0.0/8\"] }"),
        ("http2  = false", "proxy_protocol = true"),
        ("max_head = \"32KiB\"", "max_head = \"32KB\""),
        ("pending_per_client = 512", "pending_per_client = 0"),
        ("max_head = \"32KiB\"\nmax_fields = 100", "max_head = \"32KiB\"\nmax_fields = 15"),
        ("max_body = \"1MiB\"\nmax_fields = 100", "max_body = \"1MiB\"\nmax_fields = 1001"),
        ("{ rate = \"500/s\", burst = 10000 }", "\"on\""),
        ("{ rate = \"500/s\", burst = 10000 }", "{ burst = 10000 }"),
        ("{ rate = \"500/s\", burst = 10000 }", "{ rate = \"500\" }"),
        ("rate = \"500/s\", burst = 10000", "rate = \"500/s\", burst = 0"),
        ("[[certificate]]", "[certificate]"),
        ("host    = \"ws.example.com\"", ""),
        ("[defaults]", "[defaults]\npath = \"/\""),
        ("[defaults]", "[defaults]\npolicy = \"Market\""),
        ("timeouts = {}", "timeouts = { tls = \"1s\" }"),
        ("path    = \"/ticks/\"", "path = \"ticks/\""),
        ("backend = \"http://127.0.0.1:8080\"", "backend = \"ftp://127.0.0.1:8080\""),
        ("backend = \"http://127.0.0.1:8080\"", "backend = \"http://127.0.0.1:8080/chat\""),
        ("backend = \"http://127.0.0.1:8080\"", "backend = []"),
        ("policy  = ", "backend_tls = { ca = \"\" }\npolicy = "),
        ("policy  = ", "backend_tls = { key = \"client.key\" }\npolicy = "),
        ("policy  = ", "backend_tls = { verify = false }\npolicy = "),
        ("http    = \"refuse\"", "http = \"allow\""),
        ("refuse  = \"answer\"", "refuse = \"reset\""),
        ("strip_prefix = false", "timeouts = { tls = \"1s\" }"),
        ("paths = \"canonical\"", "paths = \"raw\""),
    ] {
        unsound(&OF_CONFIG, EVERYTHING, was, is);
    }
}

#[test]
fn schema_flags_invalid_policies() {
    assert_eq!(flagged(&OF_POLICY, EVERY_RULE), <[String; 0]>::default());
    for (was, is) in [
        ("owner ", "ownr "),
        ("office   = [", "any = ["),
        ("office   = [", "Office = ["),
        ("\"192.0.2.0/24\"", "\"example.com\""),
        ("file = \"lists/partners.cidr\"", "fil = \"lists/partners.cidr\""),
        ("allow = [\"office\"", "alow = [\"office\""),
        ("allow = [\"office\"", "allow = [\"any\""),
        ("deny  = [\"banned\"]", "deny = [\"any\"]"),
        ("deny  = [\"banned\"]", "deny = \"banned\""),
        ("https://app.example.com", "app.example.com"),
        ("https://app.example.com", "https://app.example.com/chat"),
        ("\"v2.ticks\"", "\"v2 ticks\""),
        ("rate = \"5/s\"", "rate = \"5/h\""),
        ("rate = \"5/s\"", "rate = \"0/s\""),
        ("rate = \"5/s\", ", ""),
        ("burst = 20", "burst = \"20\""),
        ("burst = 20", "per = \"client\""),
        ("per_client = 10, per = \"address\"", "per = 1"),
        ("per_client = 10", "per_client = 0"),
        ("max = \"1MiB\"", "max = \"0B\""),
        ("idle        = \"10m\"", "idle = \"10 minutes\""),
        ("ping        = \"25s\"", "ping = \"never\""),
        ("on_stale = \"warn\"", "on_stale = \"refuse\""),
        ("max_shrink = \"50%\"", "max_shrink = \"101%\""),
        ("client      = [\"office\"]", ""),
        ("client      = [\"office\"]", "client = [\"any\"]"),
        ("client      = [\"office\"]", "client = [\"office\"]\nidentity = [\"spiffe://a/b\"]"),
        ("client      = [\"office\"]", "identity = [\"office\"]"),
        ("per_client = 2000", "total = 2000"),
        ("client = \"203.0.113.9\"", "client = \"192.0.2.0/24\""),
        ("wss://ws.example.com/ticks/btc", "/ticks/btc"),
        ("wss://ws.example.com/ticks/btc", "ftp://ws.example.com/ticks/btc"),
        ("expect = \"allow\"", "expect = \"deny\""),
        ("expect = \"allow\"", "expect = \"refuse:rate\""),
        ("expect = \"allow\"", ""),
        ("subprotocol = \"v2.ticks\"", "identities = \"spiffe://example.com/ws\""),
        ("required = true", "required = \"yes\""),
        ("spiffe://example.com/ws/*", "example.com/ws/*"),
    ] {
        unsound(&OF_POLICY, EVERY_RULE, was, is);
    }
}
