//! What a reload does apart from every thread that others wait for: reading files, and giving the memory of lists back.
//!
//! It knows nothing of generations. One thread does all of it, and not whichever is free: what the allocator keeps of a
//! large list for its thread is there for the next one, and not once more for each thread that ever read one.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::policy::list::Entries;

/// How long a former list is left to those that still hold it, before somebody looks again.
const LEFT: Duration = Duration::from_millis(100);

/// After so many looks whoever holds it then has it.
const LOOKS: usize = 100;

/// The thread; it ends when nobody has work for it any more.
#[derive(Clone)]
pub struct Apart(mpsc::Sender<Box<dyn FnOnce() + Send>>);

impl Apart {
    /// Starts it.
    pub fn new() -> Apart {
        let (work, all) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        let started = thread::Builder::new().name("files".into()).spawn(move || all.into_iter().for_each(|work| work()));
        if let Err(error) = started {
            tracing::error!(%error, "no thread to read files with: nothing is reloaded");
        }
        Apart(work)
    }

    /// Does `work` after what waits already, as if in the runtime that asks; `None` if it panicked, or there is no thread.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (told, done) = oneshot::channel();
        // What it was about is dropped with it: nobody sees it half done.
        let work = AssertUnwindSafe(work);
        let runtime = Handle::current();
        let one = move || {
            let _within = runtime.enter();
            // Whoever asked may have gone away.
            let _ = told.send(catch_unwind(work).ok());
        };
        let sent = self.0.send(Box::new(one));
        let done = if sent.is_ok() { done.await.ok().flatten() } else { None };
        if done.is_none() {
            tracing::error!("a reload broke off");
        }
        done
    }

    /// Gives back what list files said in a former generation, once nobody else holds it. Without this the last tunnel to let
    /// go of that generation would: tens of milliseconds for a million entries, on a thread that carries bytes.
    pub async fn give_back(self, former: Vec<Arc<Entries>>) {
        for _ in 0..LOOKS {
            if former.iter().all(|entries| Arc::strong_count(entries) == 1) {
                break;
            }
            sleep(LEFT).await;
        }
        self.run(move || drop(former)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::list::Entry;

    #[tokio::test]
    async fn work_that_panics_leaves_the_thread_to_the_next() {
        let apart = Apart::new();
        assert_eq!(apart.run(|| std::panic::resume_unwind(Box::new("no"))).await, None::<()>);
        let name = || thread::current().name().map(str::to_owned);
        assert_eq!(apart.run(name).await, Some(Some("files".into())));
    }

    #[tokio::test(start_paused = true)]
    async fn a_former_list_is_given_back_once_nobody_else_holds_it() {
        let entry = Entry::parse("192.0.2.1").unwrap().unwrap();
        let held = Arc::new(Entries::new(vec![(entry, 1)]).unwrap());
        let (seen, giving) = (Arc::downgrade(&held), Apart::new().give_back(vec![Arc::clone(&held)]));
        tokio::pin!(giving);
        tokio::select! { () = &mut giving => panic!("somebody holds it"), () = sleep(5 * LEFT) => drop(held) }
        assert!(seen.upgrade().is_some(), "the last who held it is not the one who gives it back");
        giving.await;
        assert!(seen.upgrade().is_none());
    }
}
