//! Both sides of the proxies in the benchmark: `backend`, which echoes, and `load`, which measures;
//! and `relay`, the least that can be between them.
//!
//! Each is one thread on epoll. The first two take JSON orders on the standard input, one per line,
//! and answer each with one line. They are cheap, so that a figure is about the proxy between them.
//! They never trust the proxy: every byte that comes back is compared with the byte sent.

mod backend;
mod frame;
mod load;
mod message;
mod orders;
mod poll;
mod relay;
mod tunnel;

use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let outcome = match words[..] {
        ["backend", port, path] => backend::run(port, path),
        ["relay", port, to] => relay::run(port, to),
        ["load", port] => load::run(port, None),
        ["load", port, ca] => load::run(port, Some(ca)),
        _ => Err("usage: sidegate-load backend PORT UNIX-PATH | relay PORT BACKEND-PORT | load PORT [CA.pem]".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sidegate-load: {error}");
            ExitCode::FAILURE
        }
    }
}

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;
