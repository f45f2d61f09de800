//! The open pages: how many may be open, and what each of them is sent.
//!
//! All viewers share one rendering, of which only the newest is kept. A slow viewer
//! misses renderings and costs no memory; a viewer that reads nothing is given up.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::admin::page::body::PageBody;
use crate::admin::page::rendering::Rendering;
use crate::sync::lock;

/// Most pages that are sent updates at one time.
pub const MAX_VIEWERS: usize = 16;

/// Longest time of one stream of updates. Its page then asks for the next one by itself.
pub const STREAM_LIFETIME: Duration = Duration::from_secs(30 * 60);

/// Time for which a viewer may take nothing while an update is there.
const STALL_TIMEOUT: Duration = Duration::from_secs(15);

/// Sends the newest rendering to all viewers.
pub struct Viewers {
    newest: watch::Sender<Option<Arc<Rendering>>>,
    places: Arc<Semaphore>,
    /// Wakes the task that renders, once there is a viewer.
    came: Notify,
}

impl Viewers {
    /// Has no viewer and no rendering yet.
    pub fn new() -> Self {
        let places = Arc::new(Semaphore::new(MAX_VIEWERS));
        Viewers { newest: watch::Sender::new(None), places, came: Notify::new() }
    }

    /// Waits until there is a viewer.
    pub async fn any(&self) {
        while self.newest.receiver_count() == 0 {
            // `notify_one` keeps a permit, so that a viewer who comes before the await isn't
            // missed.
            self.came.notified().await;
        }
    }

    /// Hands `rendering` to all viewers, in place of the one before.
    pub fn publish(&self, rendering: Arc<Rendering>) {
        self.newest.send_replace(Some(rendering));
    }

    /// The stream of updates for one more viewer, which ends with `stop`. `None` means that there
    /// are too many.
    pub fn stream(
        &self,
        progress: Arc<StreamProgress>,
        stop: CancellationToken,
    ) -> Option<PageBody> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok()?;
        let mut newest = self.newest.subscribe();
        // An older rendering would be news to this viewer, but the next one is due at once.
        newest.mark_unchanged();
        self.came.notify_one();
        progress.begin();
        let until = Instant::now() + STREAM_LIFETIME;
        let viewer = Viewer { newest, seen: 0, progress, stop, until, _place: place };
        let updates = stream::unfold(viewer, |mut viewer| async {
            let update = viewer.next().await?;
            Some((Ok::<_, Infallible>(Frame::data(update)), viewer))
        });
        Some(PageBody::Events(StreamBody::new(updates).boxed_unsync()))
    }
}

/// An open page that is sent updates.
struct Viewer {
    newest: watch::Receiver<Option<Arc<Rendering>>>,
    /// Number of the last rendering that it was sent; 0 means none.
    seen: u64,
    progress: Arc<StreamProgress>,
    stop: CancellationToken,
    until: Instant,
    _place: OwnedSemaphorePermit,
}

impl Viewer {
    /// The next update. `None` means that the stream is over.
    async fn next(&mut self) -> Option<Bytes> {
        self.progress.ask();
        tokio::select! {
            biased;
            () = self.stop.cancelled() => None,
            () = sleep_until(self.until) => None,
            // An error means that the listener is gone.
            changed = self.newest.changed() => {
                changed.ok()?;
                let rendering = self.newest.borrow_and_update().clone()?;
                let update = rendering.update_since(self.seen);
                self.seen = rendering.number;
                self.progress.give();
                Some(update)
            }
        }
    }
}

/// Whether a viewer takes its updates, for the task that may give up its connection.
#[derive(Default)]
pub struct StreamProgress {
    began: Notify,
    /// Since when an update is on its way. `None` means that the viewer waits for the next one.
    given: Mutex<Option<Instant>>,
}

impl StreamProgress {
    /// Waits until a stream begins.
    pub async fn began(&self) {
        self.began.notified().await;
    }

    /// Whether an update has been on its way for too long.
    pub fn is_stalled(&self) -> bool {
        lock(&self.given).is_some_and(|given| given.elapsed() > STALL_TIMEOUT)
    }

    fn begin(&self) {
        self.began.notify_one();
    }

    /// hyper asks for the next update once the one before is in its bounded buffer or sent.
    fn ask(&self) {
        *lock(&self.given) = None;
    }

    fn give(&self) {
        *lock(&self.given) = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use hyper::body::Body;
    use maud::html;
    use std::future::poll_fn;
    use std::pin::Pin;
    use tokio::time::{advance, timeout};

    use crate::admin::page::rendering::Section;

    fn rendering(text: &str, before: Option<&Rendering>) -> Arc<Rendering> {
        let section = Section { id: "one", html: html! { p { (text) } } };
        Arc::new(Rendering::new("title".into(), vec![section], before))
    }

    /// The next update. `None` means that the stream is over.
    async fn next(body: &mut PageBody) -> Option<String> {
        let frame = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await?.unwrap();
        Some(String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn slow_viewer_gets_the_newest_rendering_alone() {
        let viewers = Viewers::new();
        let mut body = viewers.stream(Arc::default(), CancellationToken::new()).unwrap();
        let first = rendering("a", None);
        viewers.publish(Arc::clone(&first));
        assert_eq!(next(&mut body).await.unwrap(), "id: 1\ndata: <p>a</p>\n\n");
        let second = rendering("b", Some(&first));
        viewers.publish(Arc::clone(&second));
        viewers.publish(rendering("b", Some(&second)));
        assert_eq!(next(&mut body).await.unwrap(), "id: 3\ndata: <p>b</p>\n\n");
        assert!(timeout(UNEXPECTED, next(&mut body)).await.is_err(), "nothing was queued");
    }

    /// Time for an update that must not come.
    const UNEXPECTED: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn viewer_that_takes_nothing_is_stalled() {
        let (viewers, progress) = (Viewers::new(), Arc::<StreamProgress>::default());
        let stop = CancellationToken::new();
        let mut body = viewers.stream(Arc::clone(&progress), stop).unwrap();
        let first = rendering("a", None);
        viewers.publish(Arc::clone(&first));
        next(&mut body).await.unwrap();
        advance(STALL_TIMEOUT).await;
        assert!(!progress.is_stalled());
        advance(Duration::from_millis(1)).await;
        assert!(progress.is_stalled(), "hyper has not asked for the next update");
        assert!(timeout(UNEXPECTED, next(&mut body)).await.is_err());
        advance(10 * STALL_TIMEOUT).await;
        assert!(!progress.is_stalled(), "it waits for an update that has not come");
    }

    #[tokio::test(start_paused = true)]
    async fn stream_ends_with_the_listener_or_its_lifetime() {
        let (viewers, stop) = (Viewers::new(), CancellationToken::new());
        let mut old = viewers.stream(Arc::default(), CancellationToken::new()).unwrap();
        assert_eq!(next(&mut old).await, None);
        let mut stopped = viewers.stream(Arc::default(), stop.clone()).unwrap();
        viewers.publish(rendering("a", None));
        stop.cancel();
        assert_eq!(next(&mut stopped).await, None, "before an update that is there");
    }

    #[tokio::test(start_paused = true)]
    async fn rendering_waits_for_a_viewer_and_places_are_given_back() {
        let viewers = Viewers::new();
        assert!(timeout(UNEXPECTED, viewers.any()).await.is_err());
        let stream = || viewers.stream(Arc::default(), CancellationToken::new());
        let mut open: Vec<_> = (0..MAX_VIEWERS).map(|_| stream().unwrap()).collect();
        viewers.any().await;
        assert!(stream().is_none());
        open.pop();
        assert!(stream().is_some());
        open.clear();
        assert!(timeout(UNEXPECTED, viewers.any()).await.is_err());
    }
}
