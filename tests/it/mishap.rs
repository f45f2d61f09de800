//! A bug of ours in a reload ends that reload and nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::sidegate::control::reload::{
    self, AcceptedEffects, BindFn, ReloadContext, ReloadOutcome, Reloader, ReloaderHandle,
    TakeoverFn, Trigger,
};
use ::sidegate::control::resolve::{Lookup, Resolver};
use ::sidegate::control::systemd::PassedSockets;
use ::sidegate::lifecycle::Lifecycle;
use ::sidegate::observe::heartbeat::Heartbeats;
use ::sidegate::observe::metrics::Metrics;
use ::sidegate::observe::recent::{RecentDecisions, RingBounds};
use ::sidegate::snapshot::CurrentSnapshot;
use ::sidegate::tunnels::Tunnels;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::harness::{backend, sidegate, within};

/// Requests to the reload task, each after its files have changed.
struct Changes {
    policy: std::path::PathBuf,
    requests: ReloaderHandle,
    metrics: Arc<Metrics>,
}

impl Changes {
    /// `None` means that the reload broke off.
    async fn reload(&self) -> Option<ReloadOutcome> {
        let text = std::fs::read_to_string(&self.policy).unwrap() + "# again\n";
        std::fs::write(&self.policy, text).unwrap();
        within("a reload", self.requests.reload(Trigger::Requested, AcceptedEffects::default()))
            .await
    }
}

/// Runs the reload task with this `bind` for as long as `then` runs.
async fn reloading(bind: BindFn, then: impl AsyncFnOnce(Changes)) {
    let folder = sidegate::new()
        .clear()
        .route("/chat", &backend::refusing())
        .toml("reload.watch = 'off'")
        .write();
    let (config, passed) =
        (folder.path().join("sidegate.toml"), Arc::new(PassedSockets::default()));
    let (snapshot, config_status, handover) = reload::start(&config, &passed).unwrap().into_parts();
    let (live, metrics) = (Arc::new(CurrentSnapshot::new(snapshot)), Metrics::new());
    let (lifecycle, tracker) = (Lifecycle::new(), TaskTracker::new());
    let tunnels = Tunnels::new(Arc::clone(&live), Arc::clone(&lifecycle));
    let counts = Arc::clone(&metrics);
    let context = ReloadContext {
        config,
        passed,
        live,
        tunnels,
        metrics: counts,
        recent: RecentDecisions::new(RingBounds::default(), jiff::Timestamp::now()),
        lifecycle,
        config_status,
        resolver: Resolver::new(Lookup::default(), Arc::default()),
        tracker,
    };
    let (reloader, requests) = Reloader::new(context, handover);
    let changes =
        Changes { policy: folder.path().join("policies/default.toml"), requests, metrics };
    let (stop, pulses) = (CancellationToken::new(), Heartbeats::new(Duration::from_secs(1)));
    let asking = async {
        then(changes).await;
        stop.cancel();
    };
    tokio::join!(reloader.run(bind, pulses.register("reload"), stop.clone()), asking);
}

#[tokio::test]
async fn panicked_reload_does_not_end_the_task() {
    let first = AtomicBool::new(true);
    let bind: BindFn = Arc::new(move |_, _| {
        let breaks = first.swap(false, Ordering::SeqCst);
        Ok(Box::new(move || assert!(!breaks, "a bug")) as TakeoverFn)
    });
    reloading(bind, async |changes| {
        assert!(changes.reload().await.is_none());
        let next = changes.reload().await;
        assert!(matches!(next, Some(ReloadOutcome::Published { .. })), "{next:?}");
        assert_eq!(changes.metrics.panics(), 1);
    })
    .await;
}

#[tokio::test]
async fn reload_with_a_panicked_bind_is_rejected_and_retried() {
    let first = AtomicBool::new(true);
    let bind: BindFn = Arc::new(move |_, _| {
        assert!(!first.swap(false, Ordering::SeqCst), "a bug");
        Ok(Box::new(|| ()))
    });
    reloading(bind, async |changes| {
        let Some(ReloadOutcome::Rejected { errors }) = changes.reload().await else {
            panic!("not rejected")
        };
        assert!(errors[0].to_string().contains("the reload broke off"), "{}", errors[0]);
        assert_eq!(changes.metrics.panics(), 1);
        let next = changes.requests.reload(Trigger::Poll, AcceptedEffects::default()).await;
        assert!(matches!(next, Some(ReloadOutcome::Published { generation: 2, .. })), "{next:?}");
    })
    .await;
}
