//! Answers the requests for the page, from one rendering for all readers.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderValue, LOCATION, RETRY_AFTER};
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::admin::overview::overview;
use crate::admin::page::body::{PageResponse, refused, response, text};
use crate::admin::page::guard::{self, Resource};
use crate::admin::page::rendering::Rendering;
use crate::admin::page::view;
use crate::admin::page::viewers::{StreamProgress, Viewers};
use crate::admin::state::AdminContext;
use crate::admin::wire::OverviewRequest;
use crate::control::config::{PageAddress, PageAddresses};
use crate::sync::lock;

/// Time between two updates, and for which a rendering is shown to every reader.
const UPDATE_INTERVAL: Duration = Duration::from_secs(1);

/// Most rows of each table.
const ROWS: usize = 12;

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const ICON: &str = "image/svg+xml";
const EVENTS: &str = "text/event-stream";

/// The page behind one listener.
pub struct PageService {
    admin: Arc<AdminContext>,
    /// The port of the listener. `None` means a Unix socket.
    port: Option<u16>,
    viewers: Viewers,
    newest: Mutex<Option<RecentRendering>>,
    stop: CancellationToken,
}

/// The last rendering, and when it was made.
#[derive(Clone)]
struct RecentRendering {
    made: Instant,
    rendering: Arc<Rendering>,
}

impl PageService {
    /// Serves the page at `at` until `stop`.
    pub fn new(admin: Arc<AdminContext>, at: PageAddress, stop: CancellationToken) -> Self {
        let port = match at {
            PageAddress::Tcp(address) => Some(address.port()),
            PageAddress::Unix(_) => None,
        };
        let newest = Mutex::default();
        PageService { admin, port, viewers: Viewers::new(), newest, stop }
    }

    /// Renders for the viewers once a second, while there is one.
    pub async fn update_viewers(&self) {
        loop {
            self.viewers.any().await;
            self.viewers.publish(self.rendering());
            sleep(UPDATE_INTERVAL).await;
        }
    }

    /// Answers `request`; `progress` is that of its connection.
    pub fn answer<B>(&self, request: &Request<B>, progress: &Arc<StreamProgress>) -> PageResponse {
        let resource = match guard::check(request, self.port) {
            Ok(resource) => resource,
            Err(refusal) => {
                tracing::debug!(?refusal, "a request to the page was refused");
                return refused(refusal);
            }
        };
        let whole = |content_type, body: &'static str| {
            response(StatusCode::OK, content_type, Full::from(body))
        };
        match resource {
            Resource::Document { refreshes } => {
                let page = self.rendering().document(refreshes);
                response(StatusCode::OK, HTML, Full::from(page))
            }
            Resource::Events if request.method() == Method::HEAD => {
                response(StatusCode::OK, EVENTS, Full::from(Bytes::new()))
            }
            Resource::Events => self.events(progress),
            Resource::Script => whole(SCRIPT, include_str!("script.js")),
            Resource::Style => whole(STYLE, include_str!("style.css")),
            Resource::Icon => whole(ICON, include_str!("icon.svg")),
            Resource::Start => {
                let mut answer = text(StatusCode::SEE_OTHER, "the page is /status\n");
                answer.headers_mut().insert(LOCATION, HeaderValue::from_static("/status"));
                answer
            }
        }
    }

    fn events(&self, progress: &Arc<StreamProgress>) -> PageResponse {
        match self.viewers.stream(Arc::clone(progress), self.stop.clone()) {
            Some(events) => response(StatusCode::OK, EVENTS, events),
            None => {
                let full = "too many pages are open: close one, or load this one anew\n";
                let mut answer = text(StatusCode::SERVICE_UNAVAILABLE, full);
                answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("10"));
                answer
            }
        }
    }

    /// The newest rendering, made anew if it is a second old.
    fn rendering(&self) -> Arc<Rendering> {
        let mut newest = lock(&self.newest);
        // A little less, so that the next update is never a moment too early for its rendering.
        let lasts = UPDATE_INTERVAL - Duration::from_millis(50);
        if let Some(recent) = newest.as_ref().filter(|recent| recent.made.elapsed() < lasts) {
            return Arc::clone(&recent.rendering);
        }
        let before = newest.as_ref().map(|recent| &*recent.rendering);
        let page = self.admin.config_status.settings.load().admin.page.addresses;
        let short = page == PageAddresses::Short;
        let overview = overview(&self.admin, &OverviewRequest { rows: ROWS, short });
        let rendering = Arc::new(view::render(&overview, page, before));
        *newest = Some(RecentRendering { made: Instant::now(), rendering: Arc::clone(&rendering) });
        rendering
    }
}
