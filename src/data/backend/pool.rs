//! Which backend connections carry another plain request, and where they wait for it.
//!
//! **The invariant.** A connection is used again only if its request was sent whole, its answer
//! began after that and was read whole, and nothing has come since. Otherwise the rest of one
//! client's upload would become the beginning of the next client's request, or the answer to one
//! request the answer to another (RFC 9112 §9.3, §11.2). The types hold it: a request takes a
//! [`PooledConnection`] and leaves an [`ActiveConnection`], which closes the connection when it is
//! dropped. Only [`ActiveConnection`]'s [`OnBodyEnd`] makes a `PooledConnection` of it again, and
//! needs the proof of the body's end.
//!
//! A backend that answers without reading a body that has been sent whole cannot be told from one
//! that read it. So a connection that has carried a body serves only the client that sent it.
//!
//! A connection that began with a PROXY header belongs to the client that the header names. It
//! carries one request, and is never kept (`Route::proxy_protocol`).
//!
//! Each thread keeps its own connections, for a moment and a bounded number of them. A connection
//! serves no route that reaches its backends with other TLS options.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::body::Body;
use hyper::client::conn::http1::SendRequest;
use tokio::task::{AbortHandle, yield_now};
use tokio::time::{Instant, timeout};

use crate::data::backend::health::BackendTable;
use crate::data::http::body::{OnBodyEnd, ReadToEnd, RequestBody};
use crate::data::http::progress::RequestProgress;
use crate::policy::network::ClientKey;
use crate::snapshot::route::{Endpoint, Route};
use crate::snapshot::tls::BackendTls;
use crate::snapshot::{Permit, Snapshot};
use crate::sync::lock;

/// How long an idle connection is kept for the next plain request.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// The most idle connections that are kept to one backend, by each thread.
const MAX_IDLE: usize = 64;

/// How long hyper may take to be ready for a request on an idle connection: a turn of its task.
const READY_TIMEOUT: Duration = Duration::from_millis(100);

/// How a backend was reached. TLS options belong to it: they say which name the backend proved.
#[derive(Clone)]
pub struct PoolKey {
    /// The address that was dialled, and the name that it was dialled for.
    pub endpoint: Endpoint,
    tls: Option<Arc<BackendTls>>,
    /// The most fields of an answer: hyper's limit is set once for a connection.
    max_fields: usize,
}

impl PoolKey {
    /// To `endpoint` under the rules of `route`.
    pub fn new(endpoint: Endpoint, route: &Route) -> PoolKey {
        let tls = route.backend_tls.clone().filter(|_| endpoint.backend.is_tls());
        PoolKey { endpoint, tls, max_fields: route.max_fields }
    }

    /// The identity of the TLS options: only the very same object matches, not an equal one. Each
    /// `PoolKey` holds its `Arc`, so that no other object gets the address.
    fn options(&self) -> Option<*const BackendTls> {
        self.tls.as_ref().map(Arc::as_ptr)
    }
}

impl PartialEq for PoolKey {
    fn eq(&self, other: &PoolKey) -> bool {
        self.endpoint == other.endpoint
            && self.options() == other.options()
            && self.max_fields == other.max_fields
    }
}

impl Eq for PoolKey {}

impl Hash for PoolKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.endpoint.hash(state);
        self.options().hash(state);
        self.max_fields.hash(state);
    }
}

/// A connection on which no request is under way.
pub struct PooledConnection {
    key: PoolKey,
    sender: SendRequest<RequestBody>,
    progress: RequestProgress,
    /// The task that drives the connection.
    driver: AbortHandle,
    /// The one client that it may serve; `None` means any: it has carried no body yet.
    only_for: Option<ClientKey>,
    /// Whether it began with a PROXY header, so that it serves one request.
    is_named: bool,
}

impl PooledConnection {
    /// A connection that was just made.
    pub fn new(
        key: PoolKey,
        sender: SendRequest<RequestBody>,
        progress: RequestProgress,
        driver: AbortHandle,
        is_named: bool,
    ) -> PooledConnection {
        PooledConnection { key, sender, progress, driver, only_for: None, is_named }
    }

    /// The address that the connection leads to.
    pub fn endpoint(&self) -> &Endpoint {
        &self.key.endpoint
    }

    fn serves(&self, client: ClientKey) -> bool {
        self.only_for.is_none_or(|only| only == client) && self.is_reusable()
    }

    /// Whether it is open, may serve another request, and nothing has come since its latest answer.
    fn is_reusable(&self) -> bool {
        !self.is_named && !self.sender.is_closed() && !self.progress.has_surplus()
    }
}

/// A connection with a request under way. Dropped, it closes the connection at once, and so
/// aborts the request on the backend.
pub struct ActiveConnection {
    pool: Arc<Pool>,
    connection: Option<PooledConnection>,
    progress: RequestProgress,
}

impl ActiveConnection {
    /// Begins a request that `permit` lets in, with this `body`, to be sent with
    /// [`ActiveConnection::sender`].
    pub fn begin(
        pool: &Arc<Pool>,
        mut connection: PooledConnection,
        permit: &Permit,
        body: &mut RequestBody,
    ) -> Self {
        let progress = connection.progress.clone();
        let has_body = !body.is_end_stream();
        progress.begin(has_body, permit.route().timeouts.write_stall);
        // If a backend and Sidegate disagree about where a body ends, the rest is read as a request
        // (RFC 9112 §11.2). Kept to one client, such a connection can harm no other client.
        if has_body {
            connection.only_for = Some(permit.subject().client.key());
            body.report_progress_to(progress.clone());
        }
        ActiveConnection { pool: Arc::clone(pool), connection: Some(connection), progress }
    }

    /// hyper's end of the connection; never `None` while the request is under way.
    pub fn sender(&mut self) -> Option<&mut SendRequest<RequestBody>> {
        self.connection.as_mut().map(|connection| &mut connection.sender)
    }

    /// How far the request has come.
    pub fn progress(&self) -> &RequestProgress {
        &self.progress
    }
}

impl OnBodyEnd for ActiveConnection {
    /// Gives the connection back for reuse. Nothing else does.
    fn body_ended(mut self: Box<Self>, _proof: ReadToEnd) {
        // First, so that any byte which comes from now on counts as surplus.
        self.progress.on_response_end();
        if self.progress.is_in_order()
            && let Some(connection) = self.connection.take_if(|connection| connection.is_reusable())
        {
            self.pool.keep(connection);
        }
    }
}

impl Drop for ActiveConnection {
    fn drop(&mut self) {
        // Still there, so the body did not end in order: what comes next on it is not an answer's
        // start.
        if let Some(connection) = self.connection.take() {
            connection.driver.abort();
        }
    }
}

/// The idle connections of one thread.
pub struct Pool {
    backends: Arc<BackendTable>,
    /// `None` means that a drain has closed them. A connection that comes back then is closed too,
    /// or the drain would wait for its end.
    idle: Mutex<Option<HashMap<PoolKey, Vec<IdleConnection>>>>,
}

/// A connection that is idle.
struct IdleConnection {
    connection: PooledConnection,
    since: Instant,
}

impl Pool {
    /// Makes a pool without a connection.
    pub fn new(backends: Arc<BackendTable>) -> Arc<Self> {
        Arc::new(Pool { backends, idle: Mutex::new(Some(HashMap::new())) })
    }

    /// Closes the idle connections that were not used in time, and forgets the backends that
    /// `live` names no more.
    pub fn tidy(&self, live: &Snapshot) {
        self.backends.tidy(live);
        let mut idle = lock(&self.idle);
        let Some(idle) = &mut *idle else { return };
        for kept in idle.values_mut() {
            kept.retain(|one| one.since.elapsed() < IDLE_TIMEOUT && one.connection.is_reusable());
        }
        idle.retain(|_, kept| !kept.is_empty());
    }

    /// Closes all idle connections, and each that would become idle later.
    pub fn close_idle(&self) {
        *lock(&self.idle) = None;
    }

    /// An idle connection to a backend of the permit's route. There is none for a route whose
    /// connections begin with a PROXY header: those of other routes began without.
    pub async fn take(&self, permit: &Permit) -> Option<PooledConnection> {
        if permit.route().proxy_protocol {
            return None;
        }
        loop {
            let mut connection = self.pop(permit)?;
            // Lets the driver run first, so that bytes or an end that have come meanwhile are seen.
            yield_now().await;
            let ready = timeout(READY_TIMEOUT, connection.sender.ready()).await;
            // Otherwise the next one is tried. Dropping the sender makes hyper close this
            // connection.
            if matches!(ready, Ok(Ok(()))) && connection.is_reusable() {
                return Some(connection);
            }
        }
    }

    #[expect(
        clippy::mutable_key_type,
        reason = "a key is compared by its options' address, which never changes"
    )]
    fn pop(&self, permit: &Permit) -> Option<PooledConnection> {
        let ranked = self.backends.ranked(&permit.route().backends);
        let client = permit.subject().client.key();
        let mut idle = lock(&self.idle);
        let idle = idle.as_mut()?;
        for (endpoint, _) in ranked {
            let key = PoolKey::new(endpoint, permit.route());
            let Some(kept) = idle.get_mut(&key) else { continue };
            let fits = |one: &IdleConnection| {
                one.since.elapsed() < IDLE_TIMEOUT && one.connection.serves(client)
            };
            // The latest one used, so that the others can reach their `IDLE_TIMEOUT`.
            if let Some(at) = kept.iter().rposition(fits) {
                return Some(kept.remove(at).connection);
            }
        }
        None
    }

    /// Keeps an idle connection; the oldest one goes where there are too many.
    fn keep(&self, connection: PooledConnection) {
        let mut idle = lock(&self.idle);
        // A drain has closed the others: dropping the line closes this connection too.
        let Some(idle) = &mut *idle else { return };
        let kept = idle.entry(connection.key.clone()).or_default();
        if kept.len() >= MAX_IDLE {
            kept.remove(0);
        }
        kept.push(IdleConnection { connection, since: Instant::now() });
    }
}
