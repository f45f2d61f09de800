//! Memory for a million networks: the resident memory of a process that loads them, before, at its
//! peak and after.
//!
//! One process per family, so that neither reuses memory that the other gave back. The kernel
//! counts, not an allocator.

#[expect(dead_code, reason = "it makes the addresses that the other benchmark asks about, too")]
mod feed;

use std::process::Command;
use std::time::Instant;
use std::{env, fs};

use sidegate::control::config::{self, source::Files};

use self::feed::Family;

const MANY: usize = 1_000_000;

/// Environment variable that makes a process the loader: the path of its configuration.
const LOADS: &str = "SIDEGATE_BENCH_LOADS";

fn main() {
    if let Some(config) = env::var_os(LOADS) {
        return load(config.as_ref());
    }
    for family in [Family::V4, Family::V6] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let text = feed::text(&feed::networks(family, MANY));
        let config = feed::configuration(folder.path(), &text, feed::POLICY);
        println!("{MANY} {} networks, a file of {} MB", family.word(), text.len() / 1_000_000);
        let done =
            Command::new(env::current_exe().expect("this program")).env(LOADS, config).status();
        assert!(done.expect("this program starts").success());
    }
}

fn load(config: &std::path::Path) {
    let (before, began) = (kilobytes("VmRSS"), Instant::now());
    let mut files = Files::new();
    let loaded = config::load(&mut files, config, None).expect("a sound configuration");
    let (digest, took) = (files.digest(), began.elapsed());
    drop(files);
    let (after, peak) = (kilobytes("VmRSS"), kilobytes("VmHWM"));
    let lists = loaded
        .policies
        .iter()
        .flat_map(|policy| policy.allow.lists())
        .map(|list| list.len())
        .sum::<usize>();
    assert_eq!(lists, MANY);
    println!(
        "  loaded as {digest} in {:.2} s; resident {} MB, {} MB more than before, {} MB at the peak",
        took.as_secs_f64(),
        after / 1000,
        (after - before) / 1000,
        peak / 1000
    );
}

/// A line of this process' status.
fn kilobytes(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux says it");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
        .expect("Linux says it");
    // The kernel's kB are of 1024 bytes.
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024 / 1000
}
