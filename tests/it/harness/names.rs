//! A resolver for the names of backends, whose answers a test sets. It asks no network.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Condvar, Mutex};

use sidegate::control::resolve::Lookup;

/// The names that are known. Clones share them.
#[derive(Clone, Default)]
pub struct FakeResolver(Arc<(Mutex<Answers>, Condvar)>);

#[derive(Default)]
struct Answers {
    hosts: HashMap<String, Vec<IpAddr>>,
    asked: usize,
    hangs: bool,
}

impl FakeResolver {
    /// Sets the addresses of `host`. An empty list means that the resolver does not know it.
    pub fn set(&self, host: &str, addresses: &[&str]) -> &Self {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        self.0.0.lock().unwrap().hosts.insert(host.into(), addresses);
        self
    }

    /// Lets all look-ups hang, or go on.
    pub fn hang(&self, hangs: bool) {
        self.0.0.lock().unwrap().hangs = hangs;
        self.0.1.notify_all();
    }

    /// Returns how many look-ups have begun.
    pub fn asked(&self) -> usize {
        self.0.0.lock().unwrap().asked
    }

    /// The function that an agent resolves names with.
    pub fn lookup(&self) -> Lookup {
        let own = Arc::clone(&self.0);
        Lookup::new(move |host, port| {
            let (answers, changed) = &*own;
            let mut answers = answers.lock().unwrap();
            answers.asked += 1;
            let answers = changed.wait_while(answers, |answers| answers.hangs).unwrap();
            let found = answers.hosts.get(host).filter(|found| !found.is_empty());
            let found = found.ok_or_else(|| io::Error::other("no such host"))?;
            Ok(found.iter().map(|ip| SocketAddr::new(*ip, port)).collect())
        })
    }
}
