//! How servers read paths, written apart from what is tested; and generations to judge them by.

use std::fs;

use jiff::Timestamp;
use sidegate::control::compile;
use sidegate::control::config::LoadOptions;
use sidegate::policy::network::Client;
use sidegate::policy::request::Request;
use sidegate::snapshot::{Permit, Snapshot};

/// Steps of a server, the path of a permitted request as it was sent, that request and its permit.
pub struct Permitted<'a> {
    pub steps: &'a [u8],
    pub path: &'a str,
    pub request: Request,
    pub permit: Permit,
}

/// The request that `data` holds: the number of steps in one byte, the steps, the path. `None`
/// means that it holds none, or that the snapshot refuses it.
pub fn permitted<'a>(data: &'a [u8], snapshot: &Snapshot) -> Option<Permitted<'a>> {
    let [count, rest @ ..] = data else { return None };
    let (steps, path) = rest.split_at_checked(usize::from(count % 8))?;
    let path = str::from_utf8(path).ok()?;
    let request = Request::of_url(&format!("http://localhost/{path}"), None, None).ok()?.ok()?;
    let client = Client::new([192, 0, 2, 1].into());
    let permit =
        snapshot.judge(&client.into(), &request, None, Timestamp::UNIX_EPOCH).verdict.ok()?;
    Some(Permitted { steps, path, request, permit })
}

/// What a server makes of `path` in these steps; it decodes at most twice, and at least `least` times.
pub fn read(path: &[u8], steps: &[u8], least: usize) -> Vec<u8> {
    let (mut path, mut decoded) = (path.to_vec(), 0);
    for step in steps {
        path = match step % 7 {
            0 if decoded == 2 => path,
            0 => {
                decoded += 1;
                unescaped(&path)
            }
            1 => segments(&path, |segment| {
                segment.split(|byte| *byte == b';').next().unwrap_or_default()
            }),
            2 => shortened(&path),
            3 => path.iter().map(|byte| if *byte == b'\\' { b'/' } else { *byte }).collect(),
            4 => segments(&path, trimmed),
            5 => resolved(&path),
            _ => path.split(|byte| b"?#\0".contains(byte)).next().unwrap_or_default().to_vec(),
        };
    }
    if decoded < least { unescaped(&path) } else { path }
}

fn segments(path: &[u8], change: impl Fn(&[u8]) -> &[u8]) -> Vec<u8> {
    let changed: Vec<_> = path.split(|byte| *byte == b'/').map(change).collect();
    changed.join(&b'/')
}

fn trimmed(segment: &[u8]) -> &[u8] {
    let end = |tail: &[u8]| {
        segment.iter().rposition(|byte| !tail.contains(byte)).map_or(0, |last| last + 1)
    };
    let unspaced = &segment[..end(b" ")];
    if matches!(unspaced, b"." | b"..") { unspaced } else { &segment[..end(b" .")] }
}

fn unescaped(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut at = 0;
    while let Some(byte) = path.get(at) {
        let digits = path
            .get(at + 1..at + 3)
            .filter(|digits| *byte == b'%' && digits.iter().all(u8::is_ascii_hexdigit));
        let code =
            digits.and_then(|digits| u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok());
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
pub fn resolved(path: &[u8]) -> Vec<u8> {
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

/// A generation with these routes, each its name, path, policy and further keys; every policy admits
/// everyone.
pub fn snapshot(routes: &[(&str, &str, &str, &str)]) -> Snapshot {
    let folder = tempfile::tempdir().expect("a folder");
    let mut text =
        "schema = 1\n[[listener]]\nname = 'public'\nlisten = '127.0.0.1:0'\ntls = false\n"
            .to_owned();
    fs::create_dir(folder.path().join("policies")).expect("a folder to write to");
    for (name, path, policy, keys) in routes {
        text += &format!(
            "[[route]]\nname = '{name}'\nhost = '*'\npath = '{path}'\nbackend = 'unix:/a'\npolicy = '{policy}'\n{keys}\n"
        );
        let page = folder.path().join(format!("policies/{policy}.toml"));
        fs::write(page, "schema = 1\nclient.allow = ['any']\n").expect("a folder to write to");
    }
    let config = folder.path().join("sidegate.toml");
    fs::write(&config, text).expect("a folder to write to");
    compile::compile_untested(&config, LoadOptions::default())
        .expect("a sound configuration")
        .snapshot
}
