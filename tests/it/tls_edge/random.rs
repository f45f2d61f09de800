//! Records and handshakes at random: whatever comes, the agent serves on, nothing panics, and every
//! tunnel ends.
//!
//! `SIDEGATE_RANDOM_CASES` makes it more of them than a quick run has time for,
//! `SIDEGATE_RANDOM_SEED` others; a failure shows the seed that repeats it.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::harness::tls::{
    ALERT, CHANGE_CIPHER_SPEC, DATA, HANDSHAKE, KEY_UPDATE, UPDATE, UPDATE_BOTH, plain,
};

/// Each of so many cases, with chance of its own.
fn cases(quick: u64) -> impl Iterator<Item = (u64, StdRng)> {
    let setting = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let first = setting("SIDEGATE_RANDOM_SEED").unwrap_or(88_172_645_463_325_252);
    let count = setting("SIDEGATE_RANDOM_CASES").unwrap_or(quick);
    (first..first + count).map(|seed| {
        println!("SIDEGATE_RANDOM_SEED={seed} SIDEGATE_RANDOM_CASES=1");
        (seed, StdRng::seed_from_u64(seed))
    })
}

/// One of these.
fn one<T: Copy>(random: &mut StdRng, of: &[T]) -> T {
    of[random.random_range(0..of.len())]
}

fn bytes(random: &mut StdRng, below: usize) -> Vec<u8> {
    (0..random.random_range(0..below)).map(|_| random.random()).collect()
}

/// In pieces of all sizes: the whole, or cut at random places.
fn pieces(mut bytes: Vec<u8>, random: &mut StdRng) -> Vec<Vec<u8>> {
    let mut pieces = Vec::new();
    while !bytes.is_empty() {
        let cut = if random.random_ratio(1, 3) {
            bytes.len()
        } else {
            random.random_range(1..=bytes.len())
        };
        let rest = bytes.split_off(cut);
        pieces.push(std::mem::replace(&mut bytes, rest));
    }
    pieces
}

/// Contents of a record: whole messages, their beginnings and ends, nothing, much, anything.
fn content(random: &mut StdRng) -> Vec<u8> {
    match random.random_range(0..14) {
        0 => vec![KEY_UPDATE],
        1 => UPDATE.to_vec(),
        2 => UPDATE_BOTH.to_vec(),
        3 => UPDATE[1..].to_vec(),
        4 => vec![KEY_UPDATE, 0, 0],
        5 => vec![1, 0], // close_notify, or half of an update's end
        6 => [&UPDATE_BOTH[..], &UPDATE_BOTH[..2]].concat(),
        7 => vec![KEY_UPDATE, 0, 0xff, 0xff],
        8 => vec![1, 90],
        9 => vec![2, random.random_range(0..120)],
        10 => vec![random.random(); 16_384],
        11 => Vec::new(),
        12 => Frame::text("fine").encode(true),
        _ => bytes(random, 40),
    }
}

/// A few records of every type and content, sealed or not, perhaps torn.
fn records(client: &mut Forger, random: &mut StdRng) -> Vec<u8> {
    let mut all = Vec::new();
    for _ in 0..random.random_range(1..9) {
        let content = content(random);
        if random.random_ratio(1, 12) {
            all.extend(plain(
                one(random, &[CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE, DATA, 99]),
                &content,
            ));
            continue;
        }
        all.extend(client.record(
            one(
                random,
                &[DATA, DATA, HANDSHAKE, HANDSHAKE, HANDSHAKE, ALERT, CHANGE_CIPHER_SPEC, 99, 0],
            ),
            &content,
        ));
        if random.random_ratio(1, 3) && content.starts_with(&UPDATE[..4]) {
            client.update();
        }
        if random.random_ratio(1, 20) {
            all.truncate(all.len() - random.random_range(0..all.len().min(20)));
        }
    }
    all
}

#[tokio::test]
async fn random_records_cause_no_panic_or_leak() {
    let (sidegate, server) = agent().await;
    let mut tunnels = 0;
    for (seed, mut random) in cases(600) {
        let mut client = tls::begin(&sidegate, one(&mut random, &[&TLS13, &TLS13, &TLS12])).await;
        let mut backend = opened(&mut client, &server, b"").await;
        let is_new = client.tls.protocol_version() == Some(rustls::ProtocolVersion::TLSv1_3);
        let mut client = client.forge();
        let all = if is_new {
            records(&mut client, &mut random)
        } else {
            old_records(&mut client, &mut random)
        };
        for piece in pieces(all, &mut random) {
            client.send_below(&piece).await;
            if random.random_ratio(1, 3) {
                backend.send_frame(Frame::text("down")).await;
            }
        }
        if random.random_ratio(1, 4) {
            backend.finish().await;
        }
        tunnels += 1;
        drop((client, backend));
        expect_no_panic(&sidegate, seed).await;
    }
    sidegate.expect_metric("sidegate_tunnels_closed_total", [], tunnels).await;
    sidegate.expect_metric("sidegate_tunnels_open", [], 0).await;
    expect_unharmed(&sidegate, &server).await;
}

/// The same in TLS 1.2, which has no next keys.
fn old_records(client: &mut Forger, random: &mut StdRng) -> Vec<u8> {
    let kinds = [DATA, DATA, HANDSHAKE, HANDSHAKE, ALERT, CHANGE_CIPHER_SPEC, 99];
    let records = (0..random.random_range(1..9)).map(|_| {
        let content = content(random);
        client.record(one(random, &kinds), &content)
    });
    records.collect::<Vec<_>>().concat()
}

/// A ClientHello, perhaps with some bits turned, in records of all sizes, with others between them
/// and something behind it.
fn greeting(mut hello: Vec<u8>, random: &mut StdRng) -> Vec<u8> {
    if random.random_ratio(1, 2) {
        for _ in 0..random.random_range(1..4) {
            let at = random.random_range(0..hello.len());
            hello[at] ^= 1 << random.random_range(0..8);
        }
    }
    let mut all = Vec::new();
    for piece in pieces(hello, random) {
        all.extend(plain(HANDSHAKE, &piece));
        if random.random_ratio(1, 6) {
            all.extend(plain(
                one(random, &[CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE, DATA, 99]),
                &bytes(random, 5),
            ));
        }
    }
    if random.random_ratio(1, 3) {
        all.extend(bytes(random, 60));
    }
    all
}

#[tokio::test]
async fn random_handshakes_cause_no_panic_or_leak() {
    let (sidegate, server) = agent().await;
    for (seed, mut random) in cases(1000) {
        let mut client = tls::begin(&sidegate, one(&mut random, &[&TLS13, &TLS12])).await;
        let hello = client.hello();
        let all = greeting(hello, &mut random);
        for piece in pieces(all, &mut random) {
            client.send_below(&piece).await;
        }
        drop(client);
        expect_no_panic(&sidegate, seed).await;
    }
    sidegate.expect_metric("sidegate_connections_open", [], 0).await;
    expect_unharmed(&sidegate, &server).await;
}

/// Last flights of TLS 1.3 at random: Finished whole, in pieces or wrong, with any records between
/// and behind them.
#[tokio::test]
async fn random_last_flights_cause_no_panic_or_leak() {
    let (sidegate, server) = agent().await;
    for (seed, mut random) in cases(400) {
        let mut client = tls::begin(&sidegate, &TLS13).await;
        client.flush().await;
        let (mut client, finished) = client.forge_last_flight().await;
        let mut all = Vec::new();
        for piece in pieces(finished, &mut random) {
            all.extend(client.record(HANDSHAKE, &piece));
            if random.random_ratio(1, 8) {
                all.extend(records(&mut client, &mut random));
            }
        }
        client.finish();
        all.extend(records(&mut client, &mut random));
        for piece in pieces(all, &mut random) {
            client.send_below(&piece).await;
        }
        drop(client);
        expect_no_panic(&sidegate, seed).await;
    }
    sidegate.expect_metric("sidegate_connections_open", [], 0).await;
    expect_unharmed(&sidegate, &server).await;
}

/// Asserts that nothing has panicked; asked now and then, since asking takes longer than a case.
async fn expect_no_panic(sidegate: &Sidegate, seed: u64) {
    if seed.is_multiple_of(16) {
        sidegate.expect_metric("sidegate_panics_total", [], 0).await;
    }
}
