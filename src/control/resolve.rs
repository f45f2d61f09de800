//! Resolves the names of backends: again at an interval, and earlier when no address serves.
//!
//! Each look-up has a thread of its own, since the system's resolver blocks and may hang. No
//! connection ever waits for one: the data plane dials the addresses of the last answer.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::addresses::BoundAddresses;
use crate::snapshot::CurrentSnapshot;
use crate::snapshot::backend_name::{NameAnswer, NameState};
use crate::snapshot::names::{Names, ScheduledName};
use crate::sync::lock;

/// Time after which a look-up counts as failed. Its answer is taken all the same when it comes.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// Least time between the beginnings of two look-ups of one name.
const MIN_INTERVAL: Duration = Duration::from_secs(1);

/// How long a start or a reload waits for the first answer of new names.
const FIRST_ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// Longest sleep of the task, which is woken when there is something to do.
const MAX_SLEEP: Duration = Duration::from_secs(3600);

/// Most addresses of a name that are used.
const MAX_ADDRESSES: usize = 64;

/// Most look-ups at one time. A hanging one counts until it returns.
const MAX_LOOKUPS: usize = 32;

/// Most addresses in a line of the log.
const MAX_LOGGED_ADDRESSES: usize = 8;

type LookupFn = dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// The function that finds the addresses of a name, and may block.
#[derive(Clone)]
pub struct Lookup(Arc<LookupFn>);

impl Lookup {
    /// A look-up that calls `lookup` with the host and the port.
    pub fn new(
        lookup: impl Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static,
    ) -> Self {
        Lookup(Arc::new(lookup))
    }
}

impl Default for Lookup {
    /// The system's resolver, `getaddrinfo`: /etc/hosts, DNS, and the other sources of
    /// nsswitch.conf(5).
    fn default() -> Self {
        Lookup::new(|host, port| Ok((host, port).to_socket_addrs()?.collect()))
    }
}

/// Resolves names. Clones share the look-ups that run.
#[derive(Clone)]
pub struct Resolver {
    lookup: Lookup,
    /// The addresses of Sidegate's own listeners, to which no name may lead.
    own: Arc<BoundAddresses>,
    shared: Arc<SharedLookups>,
}

/// The look-ups of all names, and a signal that one has ended.
#[derive(Default)]
struct SharedLookups {
    table: Mutex<HashMap<NameKey, LookupState>>,
    ended: Condvar,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct NameKey {
    host: Box<str>,
    port: u16,
}

impl NameKey {
    fn of(state: &NameState) -> Self {
        NameKey { host: state.host().into(), port: state.port() }
    }
}

/// The latest look-up of a name.
struct LookupState {
    began: Instant,
    stage: LookupStage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LookupStage {
    Running,
    /// Running for longer than `LOOKUP_TIMEOUT`, and reported.
    Late,
    Ended,
}

impl Resolver {
    /// A resolver that leaves out the addresses of `own`.
    pub fn new(lookup: Lookup, own: Arc<BoundAddresses>) -> Self {
        Resolver { lookup, own, shared: Arc::default() }
    }

    /// Resolves the names of the running generation until `stop`.
    pub async fn run(self, live: Arc<CurrentSnapshot>, stop: CancellationToken) {
        loop {
            let (next, waker) = {
                let snapshot = live.load_full();
                (self.turn(&snapshot.names, Instant::now()), snapshot.names.waker())
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = waker.notified() => {}
                () = sleep(next) => {}
            }
        }
    }

    /// Waits for the first answers of names that were never resolved, but not for long. Blocks.
    pub fn resolve_new(&self, names: &[Arc<NameState>]) {
        let deadline = Instant::now() + FIRST_ANSWER_TIMEOUT;
        loop {
            for name in names.iter().filter(|name| name.is_pending()) {
                self.begin(name);
            }
            let table = lock(&self.shared.table);
            let left = deadline.saturating_duration_since(Instant::now());
            // Looked at under the lock, which each end takes: none is missed.
            if names.iter().all(|name| !name.is_pending()) || left.is_zero() {
                return;
            }
            let waited = self.shared.ended.wait_timeout(table, left);
            drop(waited.unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Begins the look-ups that are due. Returns the time until the next is.
    fn turn(&self, names: &Names, now: Instant) -> Duration {
        let mut next = MAX_SLEEP;
        for name in names.iter() {
            let mut due = self.due_in(name, now);
            if due == Some(Duration::ZERO) {
                self.begin(&name.state);
                due = self.due_in(name, now);
            }
            // A name that is still due waits for the end of another look-up, which wakes the task.
            next = due.filter(|left| !left.is_zero()).map_or(next, |left| next.min(left));
        }
        self.forget(names);
        next
    }

    /// Time until a name is to be looked up, or its look-up is late. `None` means that its end is
    /// awaited, which wakes the task.
    fn due_in(&self, name: &ScheduledName, now: Instant) -> Option<Duration> {
        let mut table = lock(&self.shared.table);
        let Some(latest) = table.get_mut(&NameKey::of(&name.state)) else {
            return Some(Duration::ZERO);
        };
        let wait = match latest.stage {
            // Reported once. Its thread ends it, however late, and wakes the task.
            LookupStage::Late => return None,
            LookupStage::Running => LOOKUP_TIMEOUT,
            LookupStage::Ended if name.state.has_wish() => MIN_INTERVAL.min(name.interval),
            LookupStage::Ended => name.interval,
        };
        let left = (latest.began + wait).saturating_duration_since(now);
        if latest.stage == LookupStage::Running && left.is_zero() {
            latest.stage = LookupStage::Late;
            drop(table);
            let seconds = LOOKUP_TIMEOUT.as_secs();
            store(&name.state, Err(format!("the resolver did not answer within {seconds} s")));
            return None;
        }
        Some(left)
    }

    /// Begins a look-up, unless one of the name runs or too many others do.
    fn begin(&self, state: &Arc<NameState>) {
        let mut table = lock(&self.shared.table);
        let running = table.values().filter(|one| one.stage != LookupStage::Ended).count();
        let key = NameKey::of(state);
        let is_running = table.get(&key).is_some_and(|one| one.stage != LookupStage::Ended);
        // A look-up cannot be cancelled: beside a hanging one a second would hang as well, and each
        // keeps a thread.
        if is_running || running >= MAX_LOOKUPS {
            return;
        }
        // Taken before the look-up begins: a wish that comes later may be about the answer of this
        // look-up, and leads to another.
        state.take_wish();
        table.insert(key, LookupState { began: Instant::now(), stage: LookupStage::Running });
        drop(table);
        let (resolver, name) = (self.clone(), Arc::clone(state));
        let work = move || {
            let call = || (resolver.lookup.0)(name.host(), name.port());
            let found = catch_unwind(AssertUnwindSafe(call))
                .unwrap_or_else(|_| Err(io::Error::other("the resolver panicked")));
            resolver.end(&name, found);
        };
        // Not a task of the runtime: its end would wait for a resolver that hangs.
        if let Err(error) = thread::Builder::new().name("resolver".into()).spawn(work) {
            self.end(state, Err(error));
        }
    }

    /// Stores the result of a look-up, and lets the next begin.
    fn end(&self, state: &NameState, found: io::Result<Vec<SocketAddr>>) {
        let usable = found.map_err(|error| describe(&error));
        store(state, usable.and_then(|found| self.usable(found, state)));
        // After the store: `resolve_new` looks at the names under this lock, and finds the answer
        // once the look-up has ended.
        if let Some(latest) = lock(&self.shared.table).get_mut(&NameKey::of(state)) {
            latest.stage = LookupStage::Ended;
        }
        self.shared.ended.notify_all();
        state.wake();
    }

    /// The addresses of an answer that can be dialled, in a fixed order: DNS answers rotate.
    fn usable(&self, found: Vec<SocketAddr>, name: &NameState) -> Result<Vec<SocketAddr>, String> {
        let mut addresses: Vec<_> =
            found.into_iter().map(|address| canonical(address, name.port())).collect();
        addresses.sort_unstable();
        addresses.dedup();
        let Some(first) = addresses.first().copied() else {
            return Err("it has no address".into());
        };
        addresses.retain(|address| is_host(address.ip()));
        if addresses.is_empty() {
            return Err(format!("{} is not the address of a host", first.ip()));
        }
        // Loaded at each answer: a reload may have bound the address since the last.
        let bound: Vec<_> = self.own.load().iter().filter_map(|one| one.address.tcp()).collect();
        let is_own = |address: &SocketAddr| bound.iter().any(|one| leads_to(*address, *one));
        let own = addresses.iter().copied().find(is_own);
        addresses.retain(|address| !is_own(address));
        if let (Some(own), true) = (own, addresses.is_empty()) {
            return Err(format!("it leads back to a listener of this process at {own}"));
        }
        // In the fixed order: the same addresses stay from answer to answer, and keep their health.
        if addresses.len() > MAX_ADDRESSES {
            tracing::debug!(%name, "only the first {MAX_ADDRESSES} addresses are used");
            addresses.truncate(MAX_ADDRESSES);
        }
        Ok(addresses)
    }

    /// Forgets the look-ups of names that are gone, once they have ended.
    fn forget(&self, names: &Names) {
        lock(&self.shared.table).retain(|key, latest| {
            // A running one stays until its thread has ended it: a second look-up of a name that
            // returns meanwhile could otherwise begin beside it.
            latest.stage != LookupStage::Ended
                || names.iter().any(|name| NameKey::of(&name.state) == *key)
        });
    }
}

/// Stores the addresses, or why there are none, and logs a change of either.
fn store(state: &NameState, found: Result<Vec<SocketAddr>, String>) {
    let was_pending = state.is_pending();
    let next = match found {
        Ok(addresses) => NameAnswer { addresses: addresses.into(), fault: None },
        // Without an answer the last one is the best guess: a resolver that is down must not end
        // what runs.
        Err(fault) => {
            let addresses = Arc::clone(&state.answer().addresses);
            NameAnswer { addresses, fault: Some(fault.into()) }
        }
    };
    let before = state.store(next.clone());
    let addresses = listed(&next.addresses);
    match &next.fault {
        Some(error) if was_pending || before.fault.is_none() => {
            let what = "the name of a backend does not resolve";
            tracing::warn!(name = %state, %error, %addresses, "{what}");
        }
        Some(error) => tracing::debug!(name = %state, %error, "the name still does not resolve"),
        None if before.addresses != next.addresses => {
            let former = (!before.addresses.is_empty()).then(|| listed(&before.addresses));
            let former = former.map(tracing::field::display);
            let what = "the name of a backend has new addresses";
            tracing::info!(name = %state, %addresses, former, "{what}");
        }
        None if before.fault.is_some() => {
            tracing::info!(name = %state, %addresses, "the name of a backend resolves again");
        }
        None => {}
    }
}

/// The first addresses, and the number of the others.
fn listed(addresses: &[SocketAddr]) -> impl fmt::Display {
    let mut text: Vec<_> =
        addresses.iter().take(MAX_LOGGED_ADDRESSES).map(ToString::to_string).collect();
    let more = addresses.len().saturating_sub(MAX_LOGGED_ADDRESSES);
    text.extend((more > 0).then(|| format!("{more} more")));
    if text.is_empty() { "none".to_owned() } else { text.join(", ") }
}

/// The resolver's own words, without the frame that std puts around them.
fn describe(error: &io::Error) -> String {
    let text = error.to_string();
    text.rsplit("lookup address information: ").next().unwrap_or(&text).to_owned()
}

/// The address with the backend's port. An IPv4-mapped address is the IPv4 address; the zone of a
/// link-local address is kept.
fn canonical(mut address: SocketAddr, port: u16) -> SocketAddr {
    address.set_port(port);
    match address.ip().to_canonical() {
        IpAddr::V4(v4) => SocketAddr::new(v4.into(), port),
        IpAddr::V6(_) => address,
    }
}

/// Whether the address is that of one host. Filters of DNS answer 0.0.0.0, to which a connection
/// would reach this host (RFC 1122 §3.2.1.3).
fn is_host(ip: IpAddr) -> bool {
    let is_broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    !(ip.is_unspecified() || ip.is_multicast() || is_broadcast)
}

/// Whether a connection to `address` reaches the listener that is bound to `bound`: each request
/// would come back until all connections are used.
fn leads_to(address: SocketAddr, bound: SocketAddr) -> bool {
    let listens = bound.ip().to_canonical();
    address.port() == bound.port()
        && (listens == address.ip() || listens.is_unspecified() && is_local(address.ip()))
}

/// Whether the address is one of this host: only those can be bound.
fn is_local(ip: IpAddr) -> bool {
    ip.is_loopback() || UdpSocket::bind((ip, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::addresses::{BoundAddress, SocketPlace};
    use crate::snapshot::backend_name::BackendName;
    use crate::snapshot::route::BackendAddress;

    /// A resolver that finds these addresses, and the names of a generation with `app:80`.
    fn finding(
        lookup: impl Fn() -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static,
    ) -> (Resolver, Names) {
        let own = Arc::new(BoundAddresses::default());
        let address = SocketPlace::Tcp(parsed("192.0.2.7:80"));
        let listens = BoundAddress { listener: "a".into(), address };
        own.store(vec![listens]);
        let mut names = Names::default();
        let name = BackendName { host: "app".into(), port: 80, server_name: None };
        let address = BackendAddress::Named(Arc::new(name));
        names.backend(&address, Duration::from_secs(10), None);
        (Resolver::new(Lookup::new(move |_, _| lookup()), own), names)
    }

    fn parsed(address: &str) -> SocketAddr {
        address.parse().unwrap()
    }

    /// Resolves a name with these addresses, and returns those in use or the fault.
    fn check(found: &'static [&'static str], expected: Result<&[&str], &str>) {
        let (resolver, names) =
            finding(|| Ok(found.iter().map(|address| parsed(address)).collect()));
        let pending = names.pending();
        resolver.resolve_new(&pending);
        let answer = pending[0].answer();
        let used: Vec<_> = answer.addresses.iter().map(ToString::to_string).collect();
        match expected {
            Ok(addresses) => {
                assert_eq!((&used[..], &answer.fault), (&to_owned(addresses)[..], &None));
            }
            Err(fault) => assert_eq!((&used[..], answer.fault.as_deref()), (&[][..], Some(fault))),
        }
    }

    fn to_owned(texts: &[&str]) -> Vec<String> {
        texts.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn addresses_have_one_order_and_one_form() {
        check(
            &["[2001:db8::1]:0", "192.0.2.2:0", "[::ffff:192.0.2.1]:0", "192.0.2.2:80"],
            Ok(&["192.0.2.1:80", "192.0.2.2:80", "[2001:db8::1]:80"]),
        );
        check(&["[fe80::1%3]:0"], Ok(&["[fe80::1%3]:80"]));
    }

    #[test]
    fn addresses_of_no_host_and_of_own_listeners_are_left_out() {
        check(&["0.0.0.0:80", "192.0.2.1:80", "192.0.2.7:80"], Ok(&["192.0.2.1:80"]));
        check(&["[::]:80", "[ff02::1]:80"], Err(":: is not the address of a host"));
        check(&["255.255.255.255:80"], Err("255.255.255.255 is not the address of a host"));
        check(&[], Err("it has no address"));
        let fault = "it leads back to a listener of this process at 192.0.2.7:80";
        check(&["192.0.2.7:80", "0.0.0.0:80"], Err(fault));
    }

    #[test]
    fn wildcard_listener_is_reached_by_addresses_of_this_host_only() {
        let reaches = |address: &str, bound: &str| leads_to(parsed(address), parsed(bound));
        for bound in ["0.0.0.0:80", "[::]:80", "127.0.0.1:80", "[::ffff:127.0.0.1]:80"] {
            assert!(reaches("127.0.0.1:80", bound), "{bound}");
            assert!(!reaches("127.0.0.1:81", bound), "{bound}");
            // TEST-NET-2 (RFC 5737), which is no address of this host.
            assert!(!reaches("198.51.100.7:80", bound), "{bound}");
        }
    }

    #[test]
    fn error_of_the_resolver_is_told_in_its_own_words() {
        let text = "failed to lookup address information: Name or service not known";
        assert_eq!(describe(&io::Error::other(text)), "Name or service not known");
        assert_eq!(describe(&io::Error::other("no thread")), "no thread");
    }

    #[test]
    fn panic_in_a_look_up_is_a_fault_and_the_next_may_begin() {
        let (resolver, names) = finding(|| panic!("in the test's resolver"));
        let pending = names.pending();
        resolver.resolve_new(&pending);
        assert_eq!(pending[0].answer().fault.as_deref(), Some("the resolver panicked"));
        pending[0].want();
        let scheduled = names.iter().next().unwrap();
        let soon = resolver.due_in(scheduled, Instant::now()).unwrap();
        assert!(soon <= MIN_INTERVAL, "{soon:?}");
        assert!(pending[0].take_wish());
        let later = resolver.due_in(scheduled, Instant::now()).unwrap();
        assert!(later > MIN_INTERVAL && later <= scheduled.interval, "{later:?}");
    }

    #[test]
    fn look_up_that_hangs_is_reported_and_not_repeated() {
        let hang = || {
            thread::park();
            Ok(Vec::new())
        };
        let (resolver, names) = finding(hang);
        let now = Instant::now();
        let next = resolver.turn(&names, now);
        assert!(next >= LOOKUP_TIMEOUT && next < MAX_SLEEP, "{next:?}");
        let late = now + LOOKUP_TIMEOUT + Duration::from_secs(1);
        assert_eq!(resolver.turn(&names, late), MAX_SLEEP);
        let answer = names.iter().next().unwrap().state.answer();
        assert_eq!(answer.fault.as_deref(), Some("the resolver did not answer within 5 s"));
        assert_eq!(resolver.turn(&names, late + Duration::from_secs(60)), MAX_SLEEP);
        let table = lock(&resolver.shared.table);
        assert!(table.len() == 1 && table.values().all(|one| one.stage == LookupStage::Late));
    }
}
