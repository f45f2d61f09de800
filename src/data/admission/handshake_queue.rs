//! Lines of TLS handshakes that are over their client's rate: one line for each client of a
//! listener.
//!
//! Shared by all threads of the data plane. Only the first of a line looks at the rate, so that a
//! token wakes one connection and not the whole line. A connection that leaves a line has taken no
//! token.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::sleep;

use crate::policy::network::ClientKey;
use crate::sync::lock;

/// The longest sleep of the first of a line, since a reload may change the rate meanwhile.
const RATE_RECHECK_INTERVAL: Duration = Duration::from_millis(500);

/// The lines of all clients.
#[derive(Default)]
pub struct HandshakeQueue {
    lines: Mutex<HashMap<QueueKey, ClientQueue>>,
    /// How many connections are in lines.
    waiting: AtomicUsize,
}

/// A listener's name, and its client.
type QueueKey = (Arc<str>, ClientKey);

struct ClientQueue {
    /// One permit, which the first of the line has. The semaphore is fair: the others come in their
    /// order.
    turn: Arc<Semaphore>,
    waiting: usize,
}

/// A connection's place in a line; given back on drop.
struct QueueGuard<'t> {
    handshake_queue: &'t HandshakeQueue,
    whose: QueueKey,
    turn: Arc<Semaphore>,
}

impl HandshakeQueue {
    /// Passes at once, if no other connection of the client waits, and `take` gives a token.
    pub fn try_pass(
        &self,
        listener: &Arc<str>,
        client: ClientKey,
        take: impl Fn() -> Result<(), Duration>,
    ) -> bool {
        !self.has_queue(listener, client) && take().is_ok()
    }

    /// Passes behind all others of the client that wait, with the next token that `take` gives.
    /// `take` returns the time until there is one.
    pub async fn wait(
        &self,
        listener: &Arc<str>,
        client: ClientKey,
        take: impl Fn() -> Result<(), Duration>,
    ) {
        let queued = self.queue((Arc::clone(listener), client));
        // The semaphore is never closed. The permit goes back on drop, also where the connection
        // leaves the line, and the next one is first.
        let _first = queued.turn.acquire().await;
        while let Err(wait) = take() {
            sleep(wait.min(RATE_RECHECK_INTERVAL)).await;
        }
    }

    /// Whether others of this client wait. A newcomer then queues behind them.
    fn has_queue(&self, listener: &Arc<str>, client: ClientKey) -> bool {
        // Usually no connection waits, and the table is not locked. At worst a newcomer reads an
        // old zero, and passes in front of a connection that queues just now.
        self.waiting.load(Ordering::Relaxed) > 0
            && self.lock().contains_key(&(Arc::clone(listener), client))
    }

    fn queue(&self, whose: QueueKey) -> QueueGuard<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let mut lines = self.lock();
        let line = lines.entry(whose.clone());
        let line =
            line.or_insert_with(|| ClientQueue { turn: Arc::new(Semaphore::new(1)), waiting: 0 });
        line.waiting += 1;
        QueueGuard { handshake_queue: self, whose, turn: Arc::clone(&line.turn) }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<QueueKey, ClientQueue>> {
        lock(&self.lines)
    }
}

impl Drop for QueueGuard<'_> {
    fn drop(&mut self) {
        self.handshake_queue.waiting.fetch_sub(1, Ordering::Relaxed);
        let mut lines = self.handshake_queue.lock();
        if let Entry::Occupied(mut line) = lines.entry(self.whose.clone()) {
            line.get_mut().waiting -= 1;
            // An entry without connections would stay for good: any address could fill the table.
            if line.get().waiting == 0 {
                line.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::{Cell, RefCell};

    use futures_util::future::join_all;
    use tokio::time::{Instant, timeout};

    const ONE: ClientKey = ClientKey::V4(1);
    const OTHER: ClientKey = ClientKey::V4(2);

    /// So many tokens, and one more each second.
    struct Tokens {
        burst: u64,
        began: Instant,
        taken: Cell<u64>,
    }

    impl Tokens {
        fn new(burst: u64) -> Self {
            Tokens { burst, began: Instant::now(), taken: Cell::new(0) }
        }

        fn take(&self) -> Result<(), Duration> {
            if self.taken.get() == self.burst + self.began.elapsed().as_secs() {
                return Err(Duration::from_secs(1));
            }
            self.taken.set(self.taken.get() + 1);
            Ok(())
        }
    }

    fn public() -> Arc<str> {
        "public".into()
    }

    #[tokio::test(start_paused = true)]
    async fn burst_passes_at_once_and_the_rest_in_order() {
        let (handshake_queue, tokens, passed) =
            (HandshakeQueue::default(), Tokens::new(2), RefCell::new(Vec::new()));
        let (public, began) = (public(), Instant::now());
        let at_once =
            (0..5).filter(|_| handshake_queue.try_pass(&public, ONE, || tokens.take())).count();
        let waiting = (0..3).map(|number| {
            let (handshake_queue, tokens, passed, public) =
                (&handshake_queue, &tokens, &passed, &public);
            async move {
                handshake_queue.wait(public, ONE, || tokens.take()).await;
                passed.borrow_mut().push((number, began.elapsed().as_secs()));
            }
        });
        join_all(waiting).await;
        assert_eq!((at_once, &passed.borrow()[..]), (2, &[(0, 1), (1, 2), (2, 3)][..]));
        assert!(handshake_queue.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn new_handshake_waits_behind_those_of_its_client() {
        let (handshake_queue, tokens) = (HandshakeQueue::default(), Tokens::new(0));
        let public = public();
        let mut first = Box::pin(handshake_queue.wait(&public, ONE, || tokens.take()));
        assert!(timeout(Duration::from_millis(900), &mut first).await.is_err());
        tokio::time::advance(Duration::from_millis(100)).await;
        assert!(
            !handshake_queue.try_pass(&public, ONE, || tokens.take()),
            "the token that has come is not its"
        );
        first.await;
        assert!(!handshake_queue.try_pass(&public, ONE, || tokens.take()));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(handshake_queue.try_pass(&public, ONE, || tokens.take()));
    }

    #[tokio::test(start_paused = true)]
    async fn other_client_and_other_listener_do_not_wait() {
        let (handshake_queue, none, some) =
            (HandshakeQueue::default(), Tokens::new(0), Tokens::new(2));
        let (public, other) = (public(), Arc::from("other"));
        let mut waits = Box::pin(handshake_queue.wait(&public, ONE, || none.take()));
        assert!(timeout(Duration::from_millis(10), &mut waits).await.is_err());
        assert!(handshake_queue.try_pass(&public, OTHER, || some.take()));
        assert!(handshake_queue.try_pass(&other, ONE, || some.take()));
    }

    #[tokio::test(start_paused = true)]
    async fn leaving_the_queue_costs_the_others_nothing() {
        let (handshake_queue, tokens) = (HandshakeQueue::default(), Tokens::new(0));
        let public = public();
        let pass = || handshake_queue.wait(&public, ONE, || tokens.take());
        let (first, second, third) = (pass(), pass(), pass());
        let began = Instant::now();
        let leaves = |pass| timeout(Duration::from_millis(200), pass);
        let (first, second, ()) = tokio::join!(leaves(first), leaves(second), third);
        assert!(first.is_err() && second.is_err());
        assert_eq!(began.elapsed().as_secs(), 1);
        assert_eq!(
            (handshake_queue.lock().len(), handshake_queue.waiting.load(Ordering::Relaxed)),
            (0, 0)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn rate_changed_by_a_reload_is_read_again() {
        let (handshake_queue, open) = (HandshakeQueue::default(), Cell::new(false));
        let public = public();
        let take = || if open.get() { Ok(()) } else { Err(Duration::from_secs(60)) };
        let reload = async {
            sleep(Duration::from_millis(100)).await;
            open.set(true);
        };
        let began = Instant::now();
        tokio::join!(handshake_queue.wait(&public, ONE, take), reload);
        assert!(began.elapsed() <= RATE_RECHECK_INTERVAL);
    }
}
