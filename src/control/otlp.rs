//! Exports spans by OTLP over HTTP (docs/operations.md, "Traces").
//!
//! Only in a binary with the feature `otlp`. Requests never wait for it: spans that a collector
//! does not take are counted, logged and dropped.

use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use opentelemetry::trace::{
    Event, Link, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_http::hyper::HyperClient;
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks};
use tokio::sync::mpsc::Receiver;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::control::reload::ConfigStatus;
use crate::observe::spans::{AttributeValue, FinishedSpan, SpanQueue};

/// Most spans of one request to the collector.
const MAX_BATCH: usize = 512;

/// Longest wait for more spans of a batch.
const BATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Time that a collector has for a batch.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// Time that the collector has for the last batches of a process that ends.
const FINAL_EXPORT_TIMEOUT: Duration = Duration::from_secs(2);

/// Exports the spans of `queue` until `stop`, and the rest of them then.
pub async fn export(queue: Arc<SpanQueue>, settings: Arc<ConfigStatus>, stop: CancellationToken) {
    let Some(mut spans) = queue.receiver() else { return };
    let mut exporter = Exporter { queue, settings, collector: None, lost: 0 };
    let mut batch = Vec::with_capacity(MAX_BATCH);
    while stop.run_until_cancelled(spans.recv_many(&mut batch, MAX_BATCH)).await.is_some() {
        let more = fill(&mut spans, &mut batch);
        let _ = stop.run_until_cancelled(timeout(BATCH_INTERVAL, more)).await;
        exporter.export(&mut batch).await;
    }
    // Tunnels that the drain has closed are among them.
    let rest = async {
        while let Ok(span) = spans.try_recv() {
            batch.push(span);
        }
        exporter.export(&mut batch).await;
    };
    let _ = timeout(FINAL_EXPORT_TIMEOUT, rest).await;
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
    exporter: SpanExporter,
}

struct Exporter {
    queue: Arc<SpanQueue>,
    settings: Arc<ConfigStatus>,
    collector: Option<Collector>,
    /// Number of spans that were lost since the last export.
    lost: u64,
}

impl Exporter {
    /// Exports the batch, and leaves it empty.
    async fn export(&mut self, batch: &mut Vec<FinishedSpan>) {
        let spans: Vec<_> = batch.drain(..).map(span_data).collect();
        let count = spans.len() as u64;
        if count == 0 {
            return;
        }
        let result = match self.collector() {
            Ok(Some(collector)) => {
                let exported = collector.exporter.export(spans).await;
                exported.map_err(|error| error.to_string())
            }
            // A reload has turned the export off.
            Ok(None) => return,
            Err(error) => Err(error),
        };
        let dropped = self.queue.take_lost();
        match result {
            Ok(()) if self.lost > 0 => {
                tracing::warn!(
                    spans = self.lost + dropped,
                    "spans are exported again: some are lost"
                );
                self.lost = 0;
            }
            Ok(()) if dropped > 0 => {
                tracing::warn!(spans = dropped, "spans came faster than the collector takes them");
            }
            Ok(()) => {}
            Err(error) => {
                // Once for each time that the collector is away.
                if self.lost == 0 {
                    tracing::warn!(error, "the collector of `[tracing] otlp` takes no spans");
                }
                self.lost += count + dropped;
            }
        }
    }

    /// The collector that the settings name now. `None` means that they name none.
    fn collector(&mut self) -> Result<Option<&Collector>, String> {
        let settings = self.settings.settings.load();
        let Some(url) = &settings.traces.collector else {
            self.collector = None;
            return Ok(None);
        };
        if self.collector.as_ref().is_none_or(|collector| collector.url != *url) {
            let exporter = exporter(url)?;
            self.collector = Some(Collector { url: url.clone(), exporter });
        }
        Ok(self.collector.as_ref())
    }
}

/// An exporter to the collector at this URL. `OTEL_EXPORTER_OTLP_HEADERS` adds fields to its
/// requests, `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` name the service.
fn exporter(url: &str) -> Result<SpanExporter, String> {
    let endpoint = format!("{url}/v1/traces");
    let _: Uri = endpoint.parse().map_err(|error| format!("{endpoint}: {error}"))?;
    let client = HyperClient::new(connector()?, EXPORT_TIMEOUT, None);
    let built = SpanExporter::builder().with_http().with_http_client(client);
    let built = built.with_endpoint(endpoint).with_timeout(EXPORT_TIMEOUT).build();
    let mut exporter = built.map_err(|error| error.to_string())?;
    // It reads the variables of the environment by itself.
    let mut resource = Resource::builder();
    if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
        resource = resource.with_service_name("sidegate");
    }
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    exporter.set_resource(&resource.with_attribute(version).build());
    Ok(exporter)
}

/// Connects with or without TLS, by the scheme. The authorities are those of the system.
fn connector() -> Result<HttpsConnector<HttpConnector>, String> {
    let builder = HttpsConnectorBuilder::new().with_native_roots();
    let builder = builder.map_err(|error| format!("no authorities: {error}"))?;
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
    };
    KeyValue::new(name, value)
}
