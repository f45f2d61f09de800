//! A thread for the blocking work of reloads: reading files, and freeing the memory of lists.
//!
//! Knows nothing of generations. One thread does all of it, instead of a pool: an allocator keeps
//! the pages of a freed list for the thread that freed it, and the next list reuses them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::policy::list::Entries;

/// Time between two looks at whether a former list is still in use.
const RELEASE_INTERVAL: Duration = Duration::from_millis(100);

/// Number of looks, after which the list's last user frees it.
const MAX_RELEASE_CHECKS: usize = 100;

/// Handle of the thread, which ends when the last handle is dropped.
#[derive(Clone)]
pub struct FileWorker(mpsc::Sender<Box<dyn FnOnce() + Send>>);

impl FileWorker {
    /// Starts the thread. If that fails, logs it, and every `run` returns `None`.
    pub fn new() -> FileWorker {
        let (work, all) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        let started = thread::Builder::new()
            .name("files".into())
            .spawn(move || all.into_iter().for_each(|work| work()));
        if let Err(error) = started {
            tracing::error!(%error, "the thread that reads files cannot be started: nothing will be reloaded");
        }
        FileWorker(work)
    }

    /// Runs `work` after the work queued before it, within the caller's runtime. `None` means that
    /// `work` panicked, or that there is no thread.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (tx, done) = oneshot::channel();
        // A panic drops all that `work` owns, so no caller sees it half done.
        let work = AssertUnwindSafe(work);
        let runtime = Handle::current();
        let one = move || {
            // Binding registers sockets with tokio, which needs a runtime on this thread.
            let _within = runtime.enter();
            // The caller may have been dropped.
            let _ = tx.send(catch_unwind(work).ok());
        };
        let sent = self.0.send(Box::new(one));
        let done = if sent.is_ok() { done.await.ok().flatten() } else { None };
        if done.is_none() {
            tracing::error!("a reload failed: a bug in sidegate");
        }
        done
    }

    /// Frees the list entries of a former generation once nothing else refers to them. Otherwise
    /// the last tunnel of that generation would free them on a thread of the data plane: tens of
    /// milliseconds for a million entries.
    pub async fn release_later(self, former: Vec<Arc<Entries>>) {
        for _ in 0..MAX_RELEASE_CHECKS {
            // Ours is the last. No other thread can make a new one from it, so the check cannot be
            // outrun.
            if former.iter().all(|entries| Arc::strong_count(entries) == 1) {
                break;
            }
            sleep(RELEASE_INTERVAL).await;
        }
        self.run(move || drop(former)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::list::ListEntry;

    #[tokio::test]
    async fn work_that_panics_leaves_the_thread_running() {
        let worker = FileWorker::new();
        assert_eq!(worker.run(|| std::panic::resume_unwind(Box::new("no"))).await, None::<()>);
        let name = || thread::current().name().map(str::to_owned);
        assert_eq!(worker.run(name).await, Some(Some("files".into())));
    }

    #[tokio::test(start_paused = true)]
    async fn former_list_is_freed_once_nothing_refers_to_it() {
        let entry = ListEntry::parse("192.0.2.1").unwrap().unwrap();
        let held = Arc::new(Entries::new(vec![(entry, 1)]).unwrap());
        let (seen, freeing) =
            (Arc::downgrade(&held), FileWorker::new().release_later(vec![Arc::clone(&held)]));
        tokio::pin!(freeing);
        tokio::select! { () = &mut freeing => panic!("it is in use"), () = sleep(5 * RELEASE_INTERVAL) => drop(held) }
        assert!(seen.upgrade().is_some(), "its last user does not free it");
        freeing.await;
        assert!(seen.upgrade().is_none());
    }
}
