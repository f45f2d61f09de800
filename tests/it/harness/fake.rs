//! A process at an admin socket that is no agent, or no honest agent.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

/// Its answer to a request line, byte for byte.
type Answers = dyn Fn(&str) -> Vec<u8> + Send + Sync;

/// A fake agent. Its thread ends with the test's process.
pub struct Fake {
    asked: Arc<Mutex<Vec<String>>>,
}

/// Listens at `socket` and answers with what `answers` makes of each request line.
pub fn at(socket: &Path, answers: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> Fake {
    answering(UnixListener::bind(socket).unwrap(), answers)
}

/// Answers at a socket that listens already.
pub fn answering(
    listener: UnixListener,
    answers: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static,
) -> Fake {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (told, answers): (_, Arc<Answers>) = (Arc::clone(&asked), Arc::new(answers));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (told, answers) = (Arc::clone(&told), Arc::clone(&answers));
            thread::spawn(move || answer(stream.unwrap(), &told, &*answers));
        }
    });
    Fake { asked }
}

/// Makes the answer with `status` and `body`, as an agent would send it.
pub fn json(status: u16, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

impl Fake {
    /// Returns the request lines so far.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn answer(mut stream: UnixStream, told: &Mutex<Vec<String>>, answers: &Answers) {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).unwrap_or_default() == 0 {
            return;
        }
        head.push(byte[0]);
    }
    let line = String::from_utf8_lossy(&head).lines().next().unwrap().to_owned();
    told.lock().unwrap().push(line.clone());
    // A command may be gone by now.
    let _ = stream.write_all(&answers(&line));
    // Waits for the command to hang up: an answer without an end must not be ended here.
    let _ = stream.read(&mut byte);
}
