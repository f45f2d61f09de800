//! The load: opens tunnels through one proxy, keeps them, and carries out orders on them.
//!
//! A tunnel that ends by itself, or a byte that comes back changed, fails the order under way; so
//! does an order that is not done in its time.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore, version};
use serde_json::{Value, json};

use crate::Outcome;
use crate::orders::{Heard, Orders};
use crate::poll::{Poll, Ready};
use crate::tunnel::{Fact, Shared, Tunnel};

const ORDERS: u64 = u64::MAX;
const PATIENCE: u64 = 60; // seconds, where an order doesn't say

/// Takes orders until the standard input ends. Between two orders the tunnels live on, and answer
/// the proxy's pings.
pub fn run(port: &str, ca: Option<&str>) -> Outcome {
    // A message that is due in 30 µs is to be sent in 30 µs.
    rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?;
    let trust = match ca {
        Some(path) => {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_file(path)?)?;
            Some(Arc::new(roots))
        }
        None => None,
    };
    let mut load = Load::new(port.parse()?, trust)?;
    let mut orders = Orders::default();
    loop {
        load.turn(None)?;
        if !load.ordered {
            continue;
        }
        match orders.read()? {
            Heard::Order(order) => {
                let answer =
                    load.obey(&order).unwrap_or_else(|error| json!({ "error": error.to_string() }));
                Orders::answer(&answer)?;
            }
            Heard::Nothing => {}
            Heard::End => return Ok(()),
        }
    }
}

struct Load {
    port: u16,
    trust: Option<Arc<RootCertStore>>,
    /// TLS configurations: for tunnels that stay, which are never resumed, and for each lane, which
    /// resumes its last connection.
    config: Option<Arc<ClientConfig>>,
    resuming: Vec<Option<Arc<ClientConfig>>>,
    poll: Poll,
    ready: Vec<Ready>,
    ordered: bool,
    shared: Shared,
    /// The tunnels by index; the open ones in order of opening; and the events of the last turn.
    tunnels: Vec<Option<Box<Tunnel>>>,
    free: Vec<usize>,
    /// Indices whose end is still to be reported: not reused before the next turn.
    gone: Vec<usize>,
    open: Vec<usize>,
    facts: Vec<(usize, Fact)>,
    heard: Vec<Fact>,
    begun: u64,
    echoed: u64,
}

impl Load {
    fn new(port: u16, trust: Option<Arc<RootCertStore>>) -> Outcome<Self> {
        let poll = Poll::new()?;
        poll.add_level(Orders::source(), ORDERS)?;
        let config =
            trust.as_ref().map(|roots| client(roots, Resumption::disabled())).transpose()?;
        Ok(Self {
            port,
            trust,
            config,
            resuming: Vec::new(),
            poll,
            ready: Vec::new(),
            ordered: false,
            shared: Shared::new(),
            tunnels: Vec::new(),
            free: Vec::new(),
            gone: Vec::new(),
            open: Vec::new(),
            facts: Vec::new(),
            heard: Vec::new(),
            begun: 0,
            echoed: 0,
        })
    }

    fn obey(&mut self, order: &Value) -> Outcome<Value> {
        let number = |name: &str| {
            order[name].as_u64().ok_or_else(|| format!("the order needs a number: {name}"))
        };
        let until =
            Instant::now() + Duration::from_secs(order["within"].as_u64().unwrap_or(PATIENCE));
        match order["do"].as_str() {
            Some("open") => self.open(number("count")? as usize, until),
            Some("echo") => self.echo(
                number("tunnels")? as usize,
                number("size")? as usize,
                number("messages")?,
                until,
            ),
            Some("touch") => self.touch(number("size")? as usize, until),
            Some("connect") => self.connect(
                number("count")?,
                number("lanes")? as usize,
                order["resume"] == true,
                until,
            ),
            Some("pace") => self.pace(
                number("tunnels")? as usize,
                number("size")? as usize,
                number("rate")?,
                Duration::from_millis(number("warm_ms")?),
                Duration::from_millis(number("ms")?),
                until,
            ),
            Some("close") => self.close(until),
            Some("stats") => {
                Ok(json!({ "open": self.open.len(), "begun": self.begun, "echoed": self.echoed }))
            }
            _ => Err(format!("no such order: {order}").into()),
        }
    }

    /// Opens so many more tunnels, some at once, each with a full TLS handshake.
    fn open(&mut self, count: usize, until: Instant) -> Outcome<Value> {
        let goal = self.open.len() + count;
        let mut tally = BTreeMap::new();
        let config = self.config.clone();
        for _ in 0..count.min(64) {
            self.begin(config.as_ref())?;
        }
        let mut begun = count.min(64);
        while self.open.len() < goal {
            for (place, fact) in self.next(until)? {
                let Fact::Opened(agreed) = fact else { return Err(unexpected(fact)) };
                *tally.entry(agreed).or_insert(0u64) += 1;
                self.open.push(place);
                if begun < count {
                    begun += 1;
                    self.begin(config.as_ref())?;
                }
            }
        }
        Ok(json!({ "open": self.open.len(), "agreed": tally }))
    }

    /// So many messages on the first tunnels, one in flight on each.
    fn echo(
        &mut self,
        tunnels: usize,
        size: usize,
        messages: u64,
        until: Instant,
    ) -> Outcome<Value> {
        let places = self.first(tunnels)?;
        let began = Instant::now();
        let (mut sent, mut done) = (0, 0);
        for place in places.into_iter().take(messages as usize) {
            self.send(place, size, began)?;
            sent += 1;
        }
        while done < messages {
            for (place, fact) in self.next(until)? {
                let Fact::Echoed(_) = fact else { return Err(unexpected(fact)) };
                done += 1;
                if sent < messages {
                    sent += 1;
                    self.send(place, size, began)?;
                }
            }
        }
        Ok(json!({ "messages": done, "seconds": began.elapsed().as_secs_f64() }))
    }

    /// One message on every tunnel, some at once.
    fn touch(&mut self, size: usize, until: Instant) -> Outcome<Value> {
        let mut places = self.open.clone().into_iter();
        let (began, goal, mut done) = (Instant::now(), places.len(), 0);
        for place in places.by_ref().take(64).collect::<Vec<_>>() {
            self.send(place, size, began)?;
        }
        while done < goal {
            for (_, fact) in self.next(until)? {
                let Fact::Echoed(_) = fact else { return Err(unexpected(fact)) };
                done += 1;
                if let Some(place) = places.next() {
                    self.send(place, size, began)?;
                }
            }
        }
        Ok(json!({ "messages": done, "seconds": began.elapsed().as_secs_f64() }))
    }

    /// So many connections on lanes of their own: TLS handshake, upgrade, Close both ways, end.
    /// With `resume` each lane goes on with the ticket that its last connection got, also in an
    /// order before.
    fn connect(
        &mut self,
        count: u64,
        lanes: usize,
        resume: bool,
        until: Instant,
    ) -> Outcome<Value> {
        while resume && self.resuming.len() < lanes {
            let tickets = || Resumption::in_memory_sessions(8);
            self.resuming
                .push(self.trust.as_ref().map(|roots| client(roots, tickets())).transpose()?);
        }
        let configs = if resume { self.resuming.clone() } else { vec![self.config.clone(); lanes] };
        let mut lane_of = BTreeMap::new();
        let mut tally = BTreeMap::new();
        let (began, mut begun, mut ended) = (Instant::now(), 0, 0);
        for (lane, config) in configs.iter().enumerate().take(count as usize) {
            lane_of.insert(self.begin(config.as_ref())?, lane);
            begun += 1;
        }
        while ended < count {
            for (place, fact) in self.next(until)? {
                match fact {
                    Fact::Opened(agreed) => {
                        *tally.entry(agreed).or_insert(0u64) += 1;
                        self.begin_close(place)?;
                    }
                    Fact::Ended(Ok(())) => {
                        ended += 1;
                        let lane = lane_of
                            .remove(&place)
                            .ok_or("a tunnel ended that no lane had begun")?;
                        if begun < count {
                            begun += 1;
                            lane_of.insert(self.begin(configs[lane].as_ref())?, lane);
                        }
                    }
                    other => return Err(unexpected(other)),
                }
            }
        }
        Ok(
            json!({ "connections": ended, "agreed": tally, "seconds": began.elapsed().as_secs_f64() }),
        )
    }

    /// So many messages a second, spread evenly over the first tunnels, whether or not the former
    /// have come back. How long each took counts from the moment it was due, so that a proxy that
    /// holds everything up is not spared.
    fn pace(
        &mut self,
        tunnels: usize,
        size: usize,
        rate: u64,
        warm: Duration,
        time: Duration,
        until: Instant,
    ) -> Outcome<Value> {
        let places = self.first(tunnels)?;
        let begin = Instant::now() + Duration::from_millis(5);
        let due = |message: u64| begin + Duration::from_nanos(message * 1_000_000_000 / rate);
        let total = (warm + time).as_micros() as u64 * rate / 1_000_000;
        let (mut sent, mut done) = (0, 0);
        let mut took = Vec::with_capacity(total as usize);
        while done < total {
            while sent < total && due(sent) <= Instant::now() {
                self.send(places[sent as usize % tunnels], size, due(sent))?;
                sent += 1;
            }
            let next = if sent < total { due(sent) } else { until };
            for (_, fact) in self.next_before(next, until)? {
                let Fact::Echoed(was_due) = fact else { return Err(unexpected(fact)) };
                done += 1;
                if was_due >= begin + warm {
                    took.push(was_due.elapsed().as_nanos() as u64);
                }
            }
        }
        took.sort_unstable();
        let last = took.len() - 1;
        let at = |share: f64| took[(last as f64 * share) as usize] as f64 / 1e3;
        Ok(json!({
            "messages": done, "counted": took.len(), "p50_us": at(0.5), "p90_us": at(0.9), "p99_us": at(0.99), "max_us": at(1.0),
        }))
    }

    /// Closes all tunnels in order, some at once.
    fn close(&mut self, until: Instant) -> Outcome<Value> {
        let mut places = std::mem::take(&mut self.open).into_iter();
        let (goal, mut ended) = (places.len(), 0);
        for place in places.by_ref().take(64).collect::<Vec<_>>() {
            self.begin_close(place)?;
        }
        while ended < goal {
            for (_, fact) in self.next(until)? {
                let Fact::Ended(Ok(())) = fact else { return Err(unexpected(fact)) };
                ended += 1;
                if let Some(place) = places.next() {
                    self.begin_close(place)?;
                }
            }
        }
        Ok(json!({ "closed": ended }))
    }

    fn first(&self, tunnels: usize) -> Outcome<Vec<usize>> {
        match self.open.get(..tunnels) {
            Some(places) if tunnels > 0 => Ok(places.to_vec()),
            _ => Err(format!("only {} tunnels are open", self.open.len()).into()),
        }
    }

    fn begin(&mut self, config: Option<&Arc<ClientConfig>>) -> Outcome<usize> {
        let place = self.free.pop().unwrap_or_else(|| {
            self.tunnels.push(None);
            self.tunnels.len() - 1
        });
        let tunnel = Tunnel::connect(self.port, config, self.begun)?;
        self.begun += 1;
        self.poll.add_edges(tunnel.socket(), place as u64)?;
        self.tunnels[place] = Some(Box::new(tunnel));
        Ok(place)
    }

    fn begin_close(&mut self, place: usize) -> Outcome {
        let tunnel = self.tunnels[place].as_mut().ok_or("a tunnel has gone")?;
        Ok(tunnel.close(&mut self.shared)?)
    }

    fn send(&mut self, place: usize, size: usize, due: Instant) -> Outcome {
        let tunnel = self.tunnels[place].as_mut().ok_or("a tunnel has gone")?;
        Ok(tunnel.send(&mut self.shared, size, due)?)
    }

    /// Returns the events of the next turn, which must come in time.
    fn next(&mut self, until: Instant) -> Outcome<Vec<(usize, Fact)>> {
        self.next_before(until, until)
    }

    fn next_before(&mut self, next: Instant, until: Instant) -> Outcome<Vec<(usize, Fact)>> {
        if Instant::now() >= until {
            return Err("not done in its time".into());
        }
        self.turn(Some(next.saturating_duration_since(Instant::now())))?;
        Ok(std::mem::take(&mut self.facts))
    }

    /// Waits once and serves every ready socket. Between orders, nothing may happen to a tunnel.
    fn turn(&mut self, timeout: Option<Duration>) -> Outcome {
        self.ordered = false;
        self.free.append(&mut self.gone);
        self.poll.wait(timeout, &mut self.ready)?;
        for Ready { token, ended } in self.ready.drain(..) {
            if token == ORDERS {
                self.ordered = true;
                continue;
            }
            let place = token as usize;
            let Some(tunnel) = &mut self.tunnels[place] else { continue };
            tunnel.serve(&mut self.shared, ended, &mut self.heard);
            for fact in self.heard.drain(..) {
                match fact {
                    Fact::Echoed(_) => self.echoed += 1,
                    Fact::Ended(_) => {
                        self.tunnels[place] = None;
                        self.gone.push(place);
                    }
                    Fact::Opened(_) => {}
                }
                self.facts.push((place, fact));
            }
        }
        Ok(())
    }
}

/// TLS 1.3 with AES-128-GCM and X25519, and nothing else.
fn client(roots: &Arc<RootCertStore>, resumption: Resumption) -> Outcome<Arc<ClientConfig>> {
    let provider = CryptoProvider {
        cipher_suites: vec![cipher_suite::TLS13_AES_128_GCM_SHA256],
        kx_groups: vec![kx_group::X25519],
        ..default_provider()
    };
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&version::TLS13])?
        .with_root_certificates(roots.clone())
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = resumption;
    Ok(Arc::new(config))
}

fn unexpected(fact: Fact) -> Box<dyn std::error::Error> {
    match fact {
        Fact::Opened(_) => "a tunnel opened that nobody asked for".into(),
        Fact::Echoed(_) => "a message came back that nobody waits for".into(),
        Fact::Ended(Ok(())) => "a tunnel ended".into(),
        Fact::Ended(Err(failure)) => failure.into(),
    }
}
