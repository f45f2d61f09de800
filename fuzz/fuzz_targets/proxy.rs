//! PROXY headers of both versions: however a stream is cut, its verdict is the same, and no byte
//! behind the header counts.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sidegate::data::proxy_protocol::header::{Signature, parse, signature};

fuzz_target!(|stream: &[u8]| {
    let whole = parse(stream);
    for length in 0..stream.len() {
        let part = parse(&stream[..length]);
        assert!(part == Ok(None) || part == whole, "{length} bytes: {part:?} of {whole:?}");
    }
    match whole {
        Ok(Some((connection, length))) => {
            assert!((15..=stream.len()).contains(&length), "{length} bytes");
            assert_eq!(signature(stream), Signature::Of(connection.version));
            assert_eq!(parse(&stream[..length]), Ok(Some((connection.clone(), length))));
            if let Some(endpoints) = connection.endpoints {
                assert_eq!(endpoints.source.is_ipv4(), endpoints.destination.is_ipv4());
                assert!(connection.client().is_some());
            }
            // What is logged is one line of bounded length.
            let shown = connection.details.to_string();
            assert!(!shown.contains(['\n', '\r', '\u{1b}']) && shown.len() < 16 << 10, "{shown}");
        }
        Ok(None) => assert!(stream.len() < 16 << 10),
        Err(fault) => assert!(!fault.to_string().is_empty()),
    }
});
