//! The kernel's figures for this process, under the names that all Prometheus libraries use.
//!
//! A figure that cannot be read (a sandbox hides `/proc`) is left out; nothing fails.

use std::fs;

use jiff::Timestamp;
use rlimit::Resource;
use rustix::param::{clock_ticks_per_second, page_size};
use rustix::time::{ClockId, clock_gettime};

use crate::observe::metrics::exposition::Exposition;
use crate::observe::metrics::family;

/// The reported fields of /proc/self/stat, in the kernel's units (proc_pid_stat(5)).
struct Stat {
    cpu_ticks: u64,
    threads: u64,
    /// Clock ticks from boot to the start of the process.
    started: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

/// When this process started, in seconds of Unix time. Computed once: later adjustments of the
/// clock would move it.
pub fn start_time() -> Option<f64> {
    // The kernel counts `started` from boot, suspended time included, as this clock does.
    let since_boot = clock_gettime(ClockId::Boottime);
    let since_boot = since_boot.tv_sec as f64 + since_boot.tv_nsec as f64 / 1e9;
    let booted = Timestamp::now().as_millisecond() as f64 / 1e3 - since_boot;
    // A clock tick is mostly 10 ms: further digits would be noise.
    Some(((booted + seconds(stat()?.started)) * 100.0).round() / 100.0)
}

/// Adds the figures that can be read; `started` comes from [`start_time`].
pub fn put(exposition: &mut Exposition, started: Option<f64>) {
    if let Some(stat) = stat() {
        exposition.sample(&family::CPU_SECONDS, &[], seconds(stat.cpu_ticks));
        exposition.count(&family::RESIDENT_MEMORY, &[], stat.resident_pages * page_size() as u64);
        exposition.count(&family::VIRTUAL_MEMORY, &[], stat.virtual_bytes);
        exposition.count(&family::THREADS, &[], stat.threads);
    }
    let open = open_descriptors();
    let max = Resource::NOFILE.get_soft().ok();
    for (family, value) in [
        (&family::START_TIME, started),
        (&family::OPEN_FDS, open),
        (&family::MAX_FDS, max.map(|max| max as f64)),
    ] {
        if let Some(value) = value {
            exposition.sample(family, &[], value);
        }
    }
}

fn seconds(ticks: u64) -> f64 {
    ticks as f64 / clock_ticks_per_second() as f64
}

fn stat() -> Option<Stat> {
    parse(&fs::read_to_string("/proc/self/stat").ok()?)
}

/// Parses /proc/self/stat. The command in parentheses may itself hold parentheses and spaces, so
/// parsing begins behind the last `)`.
fn parse(stat: &str) -> Option<Stat> {
    // `fields[0]` is the third field of proc_pid_stat(5), the state.
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(Stat {
        cpu_ticks: field(14)? + field(15)?,
        threads: field(20)?,
        started: field(22)?,
        virtual_bytes: field(23)?,
        resident_pages: field(24)?,
    })
}

/// Number of open descriptors: the size of /proc/self/fd since Linux 6.2. Older kernels say 0, so
/// the entries are counted, which is slow with many.
fn open_descriptors() -> Option<f64> {
    let told = fs::metadata("/proc/self/fd").ok()?.len();
    // The slow count is one too high: reading the folder takes a descriptor.
    let count = if told > 0 { told } else { fs::read_dir("/proc/self/fd").ok()?.count() as u64 };
    Some(count as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_name_with_parentheses_shifts_no_field() {
        let stat =
            parse("7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 150 25 0 0 20 0 9 0 4211 8192 33 18446744073709551615 1").unwrap();
        let Stat { cpu_ticks, threads, started, virtual_bytes, resident_pages } = stat;
        assert_eq!(
            (cpu_ticks, threads, started, virtual_bytes, resident_pages),
            (175, 9, 4211, 8192, 33)
        );
    }

    #[test]
    fn unreadable_figures_are_left_out() {
        assert!(parse("").is_none() && parse("7 (a) S 1 2").is_none());
    }

    #[test]
    fn own_process_has_a_start_time_and_figures() {
        let started = start_time().unwrap();
        let now = Timestamp::now().as_millisecond() as f64 / 1e3;
        assert!(started < now && started > now - 86_400.0, "{started} at {now}");
        assert!(stat().is_some_and(|stat| stat.threads > 0 && stat.resident_pages > 100));
        assert!(open_descriptors().unwrap() >= 3.0);
    }
}
