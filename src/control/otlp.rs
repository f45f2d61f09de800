//! Exports spans by OTLP over HTTP (docs/operations.md, "Traces").
//!
//! Only in a binary with the feature `otlp`. Requests never wait for it: spans that a collector
//! does not take are counted, logged and dropped.

use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use opentelemetry::trace::{
    Event, Link, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_http::hyper::HyperClient;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks};
use prost::Message;
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::mpsc::Receiver;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::connect_fault;
use crate::control::config::TraceSettings;
use crate::control::reload::ConfigStatus;
use crate::observe::spans::{AttributeValue, FinishedSpan, SpanQueue};
use crate::snapshot::tls::provider;
use crate::sync::lock;

/// Most spans of one request to the collector.
const MAX_BATCH: usize = 512;

/// Longest wait for more spans of a batch.
const BATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Time that a collector has for a batch.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// Time that the collector has for the last batches of a process that ends.
const FINAL_EXPORT_TIMEOUT: Duration = Duration::from_secs(2);

/// Shortest time between two lines of the log about lost spans.
const LOSS_INTERVAL: Duration = Duration::from_secs(60);

/// Most characters of a message of the collector that are logged.
const MAX_MESSAGE: usize = 200;

/// Exports the spans of `queue` until `stop`, and the rest of them then.
pub async fn export(queue: Arc<SpanQueue>, settings: Arc<ConfigStatus>, stop: CancellationToken) {
    let Some(mut spans) = queue.receiver() else { return };
    let (collector, losses) = Default::default();
    let mut exporter = Exporter { queue, settings, collector, losses, under_way: 0 };
    // Together with the batch under way: a stop never waits longer for a silent collector.
    let end = async {
        stop.cancelled().await;
        sleep(FINAL_EXPORT_TIMEOUT).await;
    };
    tokio::select! {
        biased;
        () = export_all(&mut exporter, &mut spans, &stop) => {}
        () = end => {}
    }
    exporter.log_end(spans.len() as u64);
}

/// Exports spans until `stop`, and then the rest of them.
async fn export_all(
    exporter: &mut Exporter,
    spans: &mut Receiver<FinishedSpan>,
    stop: &CancellationToken,
) {
    let mut batch = Vec::with_capacity(MAX_BATCH);
    while stop.run_until_cancelled(spans.recv_many(&mut batch, MAX_BATCH)).await.is_some() {
        let more = fill(spans, &mut batch);
        let _ = stop.run_until_cancelled(timeout(BATCH_INTERVAL, more)).await;
        exporter.export(&mut batch).await;
    }
    // Tunnels that the drain has closed are among them.
    while let Ok(span) = spans.try_recv() {
        batch.push(span);
    }
    exporter.export(&mut batch).await;
}

/// Takes spans until the batch is full.
async fn fill(spans: &mut Receiver<FinishedSpan>, batch: &mut Vec<FinishedSpan>) {
    while batch.len() < MAX_BATCH {
        let room = MAX_BATCH - batch.len();
        spans.recv_many(batch, room).await;
    }
}

/// A collector, under the URL that the settings have.
struct Collector {
    url: Box<str>,
    /// The authorities of the settings. `None` means those of the system.
    roots: Option<Arc<RootCertStore>>,
    exporter: SpanExporter,
    reply: Arc<Mutex<BatchReply>>,
}

/// What the collector has said of a batch.
#[derive(Debug, Default)]
struct BatchReply {
    /// Why it has not taken the batch. `None` means that it has.
    fault: Option<String>,
    /// Number of spans that it has rejected alone (OTLP, "Partial Success").
    rejected: u64,
    /// Its message about these.
    message: String,
}

/// Sends batches, and keeps what the collector says: the exporter tells neither the cause of a
/// fault nor the number of rejected spans.
#[derive(Debug)]
struct CollectorClient {
    inner: HyperClient<HttpsConnector<HttpConnector>>,
    reply: Arc<Mutex<BatchReply>>,
}

impl HttpClient for CollectorClient {
    // The signature that the macro `async_trait` makes.
    fn send_bytes<'life0, 'async_trait>(
        &'life0 self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'async_trait>>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(async move {
            let answer = self.inner.send_bytes(request).await;
            *lock(&self.reply) = BatchReply::new(&answer);
            answer
        })
    }
}

impl BatchReply {
    fn new(answer: &Result<Response<Bytes>, HttpError>) -> BatchReply {
        let failed = |fault| BatchReply { fault: Some(fault), ..BatchReply::default() };
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) if error.is::<tokio::time::error::Elapsed>() => {
                return failed(format!("it did not answer within {EXPORT_TIMEOUT:?}"));
            }
            Err(error) => return failed(connect_fault::describe(&**error)),
        };
        if !answer.status().is_success() {
            return failed(format!("it answers {}", answer.status().as_u16()));
        }
        // A body that is no message says nothing about spans: the status alone counts.
        let body = ExportTraceServiceResponse::decode(answer.body().clone());
        let Some(partial) = body.ok().and_then(|body| body.partial_success) else {
            return BatchReply::default();
        };
        // Text of another program, for the log.
        let message = partial.error_message.chars().take(MAX_MESSAGE).collect();
        let rejected = u64::try_from(partial.rejected_spans).unwrap_or_default();
        BatchReply { fault: None, rejected, message }
    }
}

/// The spans that were lost, for the log.
#[derive(Debug, Default)]
struct Losses {
    /// Number since the collector was away, which the log has not had yet.
    lost: u64,
    /// Number since the collector was away.
    total: u64,
    /// Time of the last line. `None` means that the collector takes spans.
    logged: Option<Instant>,
    /// The same for spans that the collector rejects alone.
    rejected: u64,
    rejection_logged: Option<Instant>,
}

struct Exporter {
    queue: Arc<SpanQueue>,
    settings: Arc<ConfigStatus>,
    collector: Option<Collector>,
    losses: Losses,
    /// Number of spans of the batch that is being sent.
    under_way: u64,
}

impl Exporter {
    /// Exports the batch, and leaves it empty.
    async fn export(&mut self, batch: &mut Vec<FinishedSpan>) {
        let spans: Vec<_> = batch.drain(..).map(span_data).collect();
        let count = spans.len() as u64;
        if count == 0 {
            return;
        }
        self.under_way = count;
        let reply = match self.collector() {
            Ok(Some(collector)) => {
                let exported = collector.exporter.export(spans).await;
                let reply = mem::take(&mut *lock(&collector.reply));
                match exported {
                    Ok(()) => BatchReply { fault: None, ..reply },
                    // Without a reply the fault came before a request, as from the environment.
                    Err(error) => {
                        let fault = reply.fault.or(Some(error.to_string()));
                        BatchReply { fault, ..BatchReply::default() }
                    }
                }
            }
            // A reload has turned the export off.
            Ok(None) => return self.under_way = 0,
            Err(error) => BatchReply { fault: Some(error), ..BatchReply::default() },
        };
        self.under_way = 0;
        self.losses.log(&reply, count, self.queue.take_lost());
    }

    /// Logs what the process takes with it at its end, `queued` spans among it, and the losses
    /// that no line has had.
    fn log_end(&self, queued: u64) {
        let spans = self.under_way + queued + self.losses.lost + self.queue.take_lost();
        if spans > 0 {
            tracing::warn!(spans, "the process ends, and the collector has not taken all spans");
        }
    }

    /// The collector that the settings name now. `None` means that they name none.
    fn collector(&mut self) -> Result<Option<&Collector>, String> {
        let settings = self.settings.settings.load();
        let Some(url) = &settings.traces.collector else {
            self.collector = None;
            return Ok(None);
        };
        let roots = settings.traces.collector_roots.as_ref().map(Arc::as_ptr);
        // A reload reads the authorities anew: a renewed file is taken over with them.
        let is_same =
            |known: &Collector| known.url == *url && known.roots.as_ref().map(Arc::as_ptr) == roots;
        if !self.collector.as_ref().is_some_and(is_same) {
            self.collector = Some(Collector::new(url, &settings.traces)?);
        }
        Ok(self.collector.as_ref())
    }
}

impl Losses {
    /// Logs what has become of a batch of `count` spans, while `dropped` ones found no room.
    fn log(&mut self, reply: &BatchReply, count: u64, dropped: u64) {
        let is_due = |at: Option<Instant>| at.is_none_or(|at| at.elapsed() >= LOSS_INTERVAL);
        let Some(fault) = &reply.fault else { return self.log_taken(reply, dropped) };
        // Dropped ones have the same cause: the queue is full since nothing is taken.
        (self.lost, self.total) = (self.lost + count + dropped, self.total + count + dropped);
        // At once, and then each minute: a collector may be away for days.
        if is_due(self.logged) {
            let (spans, error) = (mem::take(&mut self.lost), &**fault);
            tracing::warn!(spans, error, "the collector of `[tracing] otlp` takes no spans");
            self.logged = Some(Instant::now());
        }
    }

    fn log_taken(&mut self, reply: &BatchReply, dropped: u64) {
        if self.logged.take().is_some() {
            // The whole loss: earlier lines had parts of it.
            let spans = mem::take(&mut self.total) + dropped;
            self.lost = 0;
            tracing::warn!(spans, "spans are exported again: some are lost");
        } else if dropped > 0 {
            tracing::warn!(spans = dropped, "spans came faster than the collector takes them");
        }
        // A collector that rejects some takes the others, so this is no end of the export.
        self.rejected += reply.rejected;
        let is_due = self.rejection_logged.is_none_or(|at| at.elapsed() >= LOSS_INTERVAL);
        if reply.rejected > 0 && is_due {
            let (spans, error) = (mem::take(&mut self.rejected), &*reply.message);
            tracing::warn!(spans, error, "the collector of `[tracing] otlp` rejects spans");
            self.rejection_logged = Some(Instant::now());
        }
    }
}

impl Collector {
    /// The collector at this URL. `OTEL_EXPORTER_OTLP_HEADERS` adds fields to requests,
    /// `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` name the service.
    fn new(url: &str, settings: &TraceSettings) -> Result<Collector, String> {
        let endpoint = format!("{url}/v1/traces");
        let _: Uri = endpoint.parse().map_err(|error| format!("{endpoint}: {error}"))?;
        let roots = settings.collector_roots.clone();
        let reply = Arc::<Mutex<BatchReply>>::default();
        let inner = HyperClient::new(connector(roots.as_deref())?, EXPORT_TIMEOUT, None);
        let client = CollectorClient { inner, reply: Arc::clone(&reply) };
        let built = SpanExporter::builder().with_http().with_http_client(client);
        let built = built.with_protocol(Protocol::HttpBinary);
        let built = built.with_endpoint(endpoint).with_timeout(EXPORT_TIMEOUT).build();
        let mut exporter = built.map_err(|error| error.to_string())?;
        // It reads the variables of the environment by itself.
        let mut resource = Resource::builder();
        if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
            resource = resource.with_service_name("sidegate");
        }
        let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        exporter.set_resource(&resource.with_attribute(version).build());
        Ok(Collector { url: url.into(), roots, exporter, reply })
    }
}

/// Connects with or without TLS, by the scheme. Without `roots`, the authorities are those of the
/// system.
fn connector(roots: Option<&RootCertStore>) -> Result<HttpsConnector<HttpConnector>, String> {
    let builder = HttpsConnectorBuilder::new();
    let builder = match roots {
        None => {
            let builder = builder.with_native_roots();
            builder.map_err(|error| format!("no authorities: {error}"))?
        }
        Some(roots) => {
            let config = ClientConfig::builder_with_provider(provider());
            let config = config.with_safe_default_protocol_versions();
            let config = config.map_err(|error| format!("TLS cannot be set up: {error}"))?;
            let config = config.with_root_certificates(roots.clone()).with_no_client_auth();
            builder.with_tls_config(config)
        }
    };
    Ok(builder.https_or_http().enable_http1().build())
}

fn span_data(span: FinishedSpan) -> SpanData {
    let context = |id: crate::trace_context::SpanId| {
        let id = SpanId::from_bytes(id.to_bytes());
        let trace_id = TraceId::from_bytes(span.trace_id.to_bytes());
        SpanContext::new(trace_id, id, TraceFlags::SAMPLED, false, TraceState::NONE)
    };
    let mut events = SpanEvents::default();
    events
        .events
        .extend(span.events.iter().map(|event| Event::new(event.name, event.at, Vec::new(), 0)));
    let mut links = SpanLinks::default();
    links.links.extend(span.link.map(|id| Link::with_context(context(id))));
    let is_request = span.link.is_none();
    SpanData {
        span_context: context(span.id),
        parent_span_id: span
            .parent
            .map_or(SpanId::INVALID, |parent| SpanId::from_bytes(parent.to_bytes())),
        // The client, or a proxy in front, has made it.
        parent_span_is_remote: is_request && span.parent.is_some(),
        span_kind: if is_request { SpanKind::Server } else { SpanKind::Internal },
        name: span.name.into(),
        start_time: span.began,
        end_time: span.ended,
        attributes: span
            .attributes
            .into_iter()
            .map(|(name, value)| attribute(name, value))
            .collect(),
        dropped_attributes_count: 0,
        events,
        links,
        status: span.failure.map_or(Status::Unset, Status::error),
        instrumentation_scope: InstrumentationScope::builder("sidegate").build(),
    }
}

fn attribute(name: &'static str, value: AttributeValue) -> KeyValue {
    let value: Value = match value {
        AttributeValue::Text(text) => text.into(),
        AttributeValue::Number(number) => number.into(),
        AttributeValue::Fraction(number) => number.into(),
    };
    KeyValue::new(name, value)
}
