//! Frames of either side: however a stream is cut into inputs, the result is the same, and nothing
//! is repaired.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sidegate::data::websocket::frame::{Extensions, FrameError, PieceKind, Scanner, Sender};

/// The result of a stream.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    passed: Vec<u8>,
    controls: Vec<(u8, Vec<u8>)>,
    messages: u32,
    fault: Option<FrameError>,
}

// The first byte chooses the side and the agreed extensions, the second how the stream is cut into
// inputs.
fuzz_target!(|data: &[u8]| {
    let [settings, size, stream @ ..] = data else { return };
    let whole = scan(*settings, stream, stream.len().max(1));
    assert_eq!(whole, scan(*settings, stream, usize::from(*size).max(1)));
    assert_eq!(whole, scan(*settings, stream, 1));
});

fn scan(settings: u8, stream: &[u8], size: usize) -> Seen {
    let sender = if settings & 1 == 0 { Sender::Client } else { Sender::Backend };
    let message_max = (settings & 4 != 0).then_some(u64::from(settings >> 3));
    let extensions = match settings & 0x0A {
        0x02 => Extensions::Unknown,
        0x0A => Extensions::Deflate,
        _ => Extensions::None,
    };
    let mut scanner = Scanner::new(sender, extensions);
    let mut seen = Seen::default();
    for mut input in stream.chunks(size) {
        while !input.is_empty() {
            let piece = match scanner.next(input, &message_max) {
                Ok(piece) => piece,
                Err(fault) => return Seen { fault: Some(fault), ..seen },
            };
            assert!(
                (1..=input.len()).contains(&piece.taken),
                "{} of {} bytes taken",
                piece.taken,
                input.len()
            );
            let (taken, rest) = input.split_at(piece.taken);
            match piece.what {
                PieceKind::Run(run) => {
                    seen.passed.extend_from_slice(run.held());
                    seen.passed.extend_from_slice(taken);
                    seen.messages += run.messages;
                }
                PieceKind::Incomplete => assert!(rest.is_empty(), "held, though there is more"),
                PieceKind::Control(control) => {
                    let _ = (control.close_code(), control.is_ping(), control.is_pong());
                    seen.controls.push((control.opcode, control.payload().to_vec()));
                }
            }
            assert_eq!(scanner.at_boundary(), scanner.left() == 0);
            input = rest;
        }
    }
    seen
}
