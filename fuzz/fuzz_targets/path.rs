//! A path and the steps of a server that reads it otherwise: what one policy permits, no reading leads to another.

#![no_main]

use std::fs;
use std::sync::OnceLock;

use jiff::Timestamp;
use libfuzzer_sys::fuzz_target;
use sidegate::control::compile;
use sidegate::policy::network::Client;
use sidegate::policy::request::Request;
use sidegate::snapshot::Snapshot;

/// An open route, and strict ones beside it.
const ROUTES: [(&str, &str, &str); 5] = [
    ("root", "/", "open"),
    ("public", "/public/", "open"),
    ("admin", "/admin/", "shut"),
    ("exact", "/admin", "shut"),
    ("deep", "/a/b/", "shut"),
];

// The first byte says how many steps there are, then they come, then the path.
fuzz_target!(|data: &[u8]| {
    let [count, rest @ ..] = data else { return };
    let Some((steps, path)) = rest.split_at_checked(usize::from(count % 8)) else { return };
    let Ok(path) = str::from_utf8(path) else { return };
    let Ok(Ok(request)) = Request::of_url(&format!("http://localhost/{path}"), None, None) else { return };
    let snapshot = snapshot();
    let verdict = snapshot.judge(Client::new([192, 0, 2, 1].into()), &request, None, Timestamp::UNIX_EPOCH).verdict;
    let Ok(permit) = verdict else { return };
    let read = resolved(&read(request.path.as_bytes(), steps));
    if let Some(other) = snapshot.routes.find_decoded("localhost", &read) {
        let (own, other) = (&permit.route().policy.name, &other.policy.name);
        assert_eq!(own, other, "{} read as {}", request.path, String::from_utf8_lossy(&read));
    }
});

/// What a server makes of `path` in these steps; it decodes once or twice.
fn read(path: &[u8], steps: &[u8]) -> Vec<u8> {
    let (mut path, mut decoded) = (path.to_vec(), 0);
    for step in steps {
        path = match step % 7 {
            0 if decoded == 2 => path,
            0 => {
                decoded += 1;
                unescaped(&path)
            }
            1 => segments(&path, |segment| segment.split(|byte| *byte == b';').next().unwrap_or_default()),
            2 => shortened(&path),
            3 => path.iter().map(|byte| if *byte == b'\\' { b'/' } else { *byte }).collect(),
            4 => segments(&path, trimmed),
            5 => resolved(&path),
            _ => path.split(|byte| b"?#\0".contains(byte)).next().unwrap_or_default().to_vec(),
        };
    }
    if decoded == 0 { unescaped(&path) } else { path }
}

fn segments(path: &[u8], change: impl Fn(&[u8]) -> &[u8]) -> Vec<u8> {
    let changed: Vec<_> = path.split(|byte| *byte == b'/').map(change).collect();
    changed.join(&b'/')
}

fn trimmed(segment: &[u8]) -> &[u8] {
    let end = |tail: &[u8]| segment.iter().rposition(|byte| !tail.contains(byte)).map_or(0, |last| last + 1);
    let unspaced = &segment[..end(b" ")];
    if matches!(unspaced, b"." | b"..") { unspaced } else { &segment[..end(b" .")] }
}

fn unescaped(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut at = 0;
    while let Some(byte) = path.get(at) {
        let digits = path.get(at + 1..at + 3).filter(|digits| *byte == b'%' && digits.iter().all(u8::is_ascii_hexdigit));
        let code = digits.and_then(|digits| u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok());
        out.push(code.unwrap_or(*byte));
        at += if code.is_some() { 3 } else { 1 };
    }
    out
}

/// Overlong UTF-8 of two and three bytes as the character that it stands for.
fn shortened(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = path;
    loop {
        rest = match rest {
            [] => return out,
            [first @ 0xc0..=0xc1, second @ 0x80..=0xbf, rest @ ..] => {
                out.push((first & 1) << 6 | second & 0x3f);
                rest
            }
            [0xe0, second @ 0x80..=0x81, third @ 0x80..=0xbf, rest @ ..] => {
                out.push((second & 1) << 6 | third & 0x3f);
                rest
            }
            [first, rest @ ..] => {
                out.push(*first);
                rest
            }
        };
    }
}

/// Without dot segments and empty ones.
fn resolved(path: &[u8]) -> Vec<u8> {
    let mut kept: Vec<&[u8]> = Vec::new();
    let mut is_folder = true;
    for segment in path.split(|byte| *byte == b'/') {
        is_folder = matches!(segment, b"" | b"." | b"..");
        match segment {
            b"" | b"." => {}
            b".." => drop(kept.pop()),
            _ => kept.push(segment),
        }
    }
    let tail: &[u8] = if is_folder && !kept.is_empty() { b"/" } else { b"" };
    [b"/", &kept.join(&b'/')[..], tail].concat()
}

/// One generation for the whole run.
fn snapshot() -> &'static Snapshot {
    static SNAPSHOT: OnceLock<Snapshot> = OnceLock::new();
    SNAPSHOT.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let listener = "schema = 1\n[[listener]]\nname = 'public'\nlisten = '127.0.0.1:0'\ntls = false\n";
        let routes = ROUTES.map(|(name, path, policy)| {
            format!("[[route]]\nname = '{name}'\nhost = '*'\npath = '{path}'\nbackend = 'unix:/a'\npolicy = '{policy}'\n")
        });
        fs::create_dir(folder.path().join("policies")).expect("a folder to write to");
        for policy in ["open", "shut"] {
            let path = folder.path().join(format!("policies/{policy}.toml"));
            fs::write(path, "schema = 1\nclient.allow = ['any']\n").expect("a folder to write to");
        }
        let config = folder.path().join("sidegate.toml");
        fs::write(&config, format!("{listener}{}", routes.concat())).expect("a folder to write to");
        compile::unrehearsed(&config).expect("a sound configuration").snapshot
    })
}
