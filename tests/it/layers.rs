//! The import tables of docs/architecture.md, held to: each row imports only from rows above it,
//! and no file imports itself by way of others.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::imports::{Modules, circles};

/// The modules, top row first; modules of one row never import each other.
const ROWS: [&[&str]; 15] = [
    &["refusal", "close", "sync", "trace_context"],
    &["policy"],
    &["snapshot"],
    &["addresses", "connect_fault", "lifecycle", "socket_file"],
    &["inherited_sockets"],
    &["tunnels"],
    &["observe"],
    &["data", "control"],
    &["handover"],
    &["admin"],
    &["agent"],
    &["lib"],
    &["output_file"],
    &["import"],
    &["cli", "main"],
];

/// The last row is the wiring: its modules know each other.
const WIRING: usize = 14;

/// The folders and files of `data/`, top row first.
const DATA_ROWS: [&[&str]; 11] = [
    &["stream", "websocket"],
    &["proxy_protocol"],
    &["admission"],
    &["tls"],
    &["http"],
    &["backend"],
    &["tunnel"],
    &["context.rs"],
    &["connection"],
    &["listener.rs"],
    &["mod.rs"],
];

/// The row of a file of `data/`, with the name of its folder.
fn data_row(path: &Path) -> Option<(usize, &str)> {
    let name = path.strip_prefix("data").ok()?.iter().next()?.to_str().unwrap();
    let row = DATA_ROWS.iter().position(|row| row.contains(&name));
    Some((row.unwrap_or_else(|| panic!("`{name}` is in no row of data/")), name))
}

/// Every file of `src` with its text.
pub fn sources() -> BTreeMap<PathBuf, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut folders, mut files) = (vec![root.clone()], BTreeMap::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.insert(
                    path.strip_prefix(&root).unwrap().to_owned(),
                    std::fs::read_to_string(&path).unwrap(),
                );
            }
        }
    }
    assert!(files.len() > 50, "only {} files", files.len());
    files
}

/// The top module of a file, or of a path of modules: `data` of `data/tls.rs`.
fn module(first: &str) -> &str {
    first.strip_suffix(".rs").unwrap_or(first)
}

fn row(module: &str) -> usize {
    ROWS.iter()
        .position(|row| row.contains(&module))
        .unwrap_or_else(|| panic!("`{module}` is in no row of the table"))
}

/// The top modules that a file names behind `crate::`, and in the binary behind `sidegate::` too.
fn named(text: &str, in_binary: bool) -> Vec<String> {
    let code: Vec<_> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let code = code.join("\n");
    let prefixes: &[&str] = if in_binary { &["crate::", "sidegate::"] } else { &["crate::"] };
    let paths = prefixes.iter().flat_map(|prefix| code.split(prefix).skip(1));
    paths.flat_map(first_words).collect()
}

/// The first word of a path, or of each of `{a::b, c}`; a word with a capital letter is something
/// of `lib.rs`.
fn first_words(path: &str) -> Vec<String> {
    let paths = match path.strip_prefix('{') {
        Some(inside) => inside.split('}').next().unwrap().split(',').collect(),
        None => vec![path],
    };
    let words = paths.into_iter().filter_map(|path| {
        path.trim().split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next()
    });
    let words = words.filter(|word| !word.is_empty());
    words
        .map(|word| {
            if word.starts_with(|c: char| c.is_ascii_uppercase()) { "lib" } else { word }.to_owned()
        })
        .collect()
}

#[test]
fn every_module_imports_from_the_rows_above_it_only() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let own = module(path.iter().next().unwrap().to_str().unwrap());
        let in_binary = matches!(own, "cli" | "import" | "main" | "output_file");
        for other in named(&text, in_binary).iter().filter(|other| *other != own) {
            if row(other) >= row(own) && row(own) != WIRING {
                wrong.push(format!("{} names `{other}`", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_file_imports_itself_by_way_of_others() {
    let sources = sources();
    let imports = Modules::new(&sources).imports();
    let edges = imports.values().map(|imported| imported.len()).sum::<usize>();
    assert!(edges > 500, "only {edges} imports were found");
    assert!(circles(&imports).is_empty(), "{:#?}", circles(&imports));
}

#[test]
fn folders_of_data_import_from_the_rows_above_them() {
    let sources = sources();
    let mut wrong = Vec::new();
    for (file, imported) in Modules::new(&sources).imports() {
        let Some((own, name)) = data_row(file) else { continue };
        for other in imported {
            if data_row(other).is_some_and(|(row, folder)| row >= own && folder != name) {
                wrong.push(format!("{} imports {}", file.display(), other.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn pure_modules_name_no_socket_file_or_runtime() {
    for (path, text) in sources() {
        let own = module(path.iter().next().unwrap().to_str().unwrap());
        let code = text.split("#[cfg(test)]").next().unwrap();
        if row(own) < row("snapshot") {
            for foreign in [
                "tokio::",
                "std::fs",
                "std::net::Tcp",
                "Instant::now",
                "Timestamp::now",
                "SystemTime",
            ] {
                let names = code
                    .lines()
                    .any(|line| !line.trim_start().starts_with("//") && line.contains(foreign));
                assert!(!names, "{} names {foreign}", path.display());
            }
        }
    }
}

/// Types that change behind a shared reference.
const MUTABLE: [&str; 12] = [
    "Mutex",
    "RwLock",
    "Atomic",
    "RefCell",
    "Cell<",
    "OnceLock",
    "OnceCell",
    "LazyLock",
    "ArcSwap",
    "RateLimiter",
    "StateStore",
    "InMemoryState",
];

/// Files of a pure module that name such a type, and the reason why no snapshot holds it.
const NOT_IN_A_SNAPSHOT: [(&str, &str); 10] = [
    // The bans, which change beside the generations.
    ("snapshot/bans.rs", "ArcSwap"),
    ("snapshot/bans.rs", "Atomic"),
    // A table of the program, made at its first use.
    ("snapshot/client_hello.rs", "LazyLock"),
    // The addresses of a name, which the resolver changes for all generations.
    ("snapshot/backend_name.rs", "ArcSwap"),
    ("snapshot/backend_name.rs", "Atomic"),
    // Of a connection: which verifier its certificate has passed, so that it need not do so twice.
    ("policy/subject.rs", "Atomic"),
    // A counter of the program, which numbers verifiers.
    ("snapshot/client_auth.rs", "Atomic"),
    // Of one check of a chain: its last fault.
    ("snapshot/revocation.rs", "RefCell"),
    // The pointer to the running snapshot.
    ("snapshot/current.rs", "ArcSwap"),
    // The certificate that one TLS handshake has chosen.
    ("snapshot/tls.rs", "OnceLock"),
];

#[test]
fn policies_and_snapshots_are_values_that_never_change() {
    for (path, text) in sources() {
        let own = module(path.iter().next().unwrap().to_str().unwrap());
        if !matches!(own, "policy" | "snapshot") || path.ends_with("tests.rs") {
            continue;
        }
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
        let code = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        for (line, mutable) in code.flat_map(|line| MUTABLE.map(|mutable| (line, mutable))) {
            let is_known =
                NOT_IN_A_SNAPSHOT.iter().any(|(file, one)| path.ends_with(file) && *one == mutable);
            assert!(is_known || !line.contains(mutable), "{}: {line}", path.display());
        }
    }
}

#[test]
fn every_file_has_a_module_doc() {
    for (path, text) in sources() {
        let first = text.lines().next().unwrap_or_default();
        assert!(
            first.starts_with("//! ") && first.len() > 10,
            "{} begins with {first:?}",
            path.display()
        );
    }
}

#[test]
fn import_scanner_sees_every_form() {
    let text = "use crate::policy::Policy;\n// crate::data is not meant\nuse crate::{\n    close,\n    refusal::Refusal,\n};\nlet x = crate::Order::Drain;\n";
    assert_eq!(named(text, false), ["policy", "close", "refusal", "lib"]);
    assert_eq!(named("use sidegate::{Agent, control::config};", true), ["lib", "control"]);
    assert_eq!(named("use crate::cli::say;\nuse sidegate::close;", true), ["cli", "close"]);
}
