//! Calls into file systems with a deadline: a thread that never returns from one is replaced.
//!
//! A read from NFS or FUSE can block for ever, and no signal ends it. The caller gives up after a
//! while; the thread stays behind until its call returns. The number of such threads is bounded.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::sync::lock;

/// Most threads that may be stuck in a call at one time.
pub const MAX_STUCK_THREADS: usize = 4;

/// Time without progress after which a call is given up.
const STALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Time that the calls of one pass over the files may take together.
const PASS_TIMEOUT: Duration = Duration::from_secs(30);

/// The states of a call: running, returned, and given up by its caller.
const RUNNING: u8 = 0;
const RETURNED: u8 = 1;
const ABANDONED: u8 = 2;

type Job = Box<dyn FnOnce() + Send>;

/// The thread that makes the calls, and the number of threads left behind. Clones share both.
#[derive(Debug, Clone)]
pub struct FsExecutor {
    /// The current thread. `None` means that the next call starts one.
    jobs: Arc<Mutex<Option<mpsc::Sender<Job>>>>,
    stuck: Arc<AtomicUsize>,
    returned: Arc<Notify>,
    still: Duration,
    pass: Duration,
}

/// The reason why a call gave no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FsCallError {
    /// The call makes no progress, or the time of the pass is used up.
    Stuck,
    /// Too many earlier calls are stuck, or no thread can be started.
    TooManyStuck,
}

/// The time that the calls of one pass have left.
#[derive(Debug, Clone, Copy)]
pub struct RemainingTime(Duration);

/// Bytes read so far by a call.
#[derive(Debug, Clone, Default)]
pub struct ReadProgress(Arc<AtomicU64>);

impl ReadProgress {
    /// Notes that `count` more bytes were read.
    pub fn add(&self, count: usize) {
        self.0.fetch_add(count as u64, Ordering::Relaxed);
    }

    fn total(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Default for FsExecutor {
    fn default() -> Self {
        FsExecutor::with_timeouts(STALL_TIMEOUT, PASS_TIMEOUT)
    }
}

impl FsExecutor {
    /// Gives up a call after `still` without progress, and after `pass` for all calls of a pass.
    pub fn with_timeouts(still: Duration, pass: Duration) -> FsExecutor {
        let (jobs, stuck, returned) = Default::default();
        FsExecutor { jobs, stuck, returned, still, pass }
    }

    /// A fresh time budget for one pass.
    pub fn new_budget(&self) -> RemainingTime {
        RemainingTime(self.pass)
    }

    /// Number of threads that are stuck in a call.
    pub fn stuck(&self) -> usize {
        self.stuck.load(Ordering::SeqCst)
    }

    /// Waits until a stuck call has returned, so that its file system answers again.
    pub async fn returned(&self) {
        self.returned.notified().await;
    }

    /// Runs `call` on the thread, and deducts its duration from `left`.
    ///
    /// # Errors
    /// The call is late, or cannot be made.
    pub fn run<T: Send + 'static>(
        &self,
        left: &mut RemainingTime,
        call: impl FnOnce(&ReadProgress) -> T + Send + 'static,
    ) -> Result<T, FsCallError> {
        // Held until the call ends or is given up, so that there is one call at a time.
        let mut jobs = lock(&self.jobs);
        if self.stuck() >= MAX_STUCK_THREADS {
            return Err(FsCallError::TooManyStuck);
        }
        if left.0.is_zero() {
            return Err(FsCallError::Stuck);
        }
        let (tx, rx) = mpsc::sync_channel(1);
        let (state, progress) = (Arc::new(AtomicU8::new(RUNNING)), ReadProgress::default());
        let (ended, stuck) = (Arc::clone(&state), Arc::clone(&self.stuck));
        let (counted, returned) = (progress.clone(), Arc::clone(&self.returned));
        let job: Job = Box::new(move || {
            send_outcome(&tx, catch_unwind(AssertUnwindSafe(|| call(&counted))));
            if ended.swap(RETURNED, Ordering::SeqCst) == ABANDONED {
                stuck.fetch_sub(1, Ordering::SeqCst);
                returned.notify_one();
            }
        });
        send(&mut jobs, job)?;
        let began = Instant::now();
        let result = await_result(&rx, &progress, self.still.min(left.0), left.0);
        left.0 = left.0.saturating_sub(began.elapsed());
        if let Some(result) = result {
            return result.map_or_else(|panic| resume_unwind(panic), Ok);
        }
        // Counted before the swap: otherwise a call that returns in between would subtract first,
        // and the counter would wrap.
        self.stuck.fetch_add(1, Ordering::SeqCst);
        if state.swap(ABANDONED, Ordering::SeqCst) == RETURNED {
            // The call has just returned, and its thread takes further calls.
            self.stuck.fetch_sub(1, Ordering::SeqCst);
        } else {
            // Without its sender the thread ends once the call returns.
            *jobs = None;
        }
        Err(FsCallError::Stuck)
    }
}

type CallResult<T> = Result<T, Box<dyn Any + Send>>;

fn send_outcome<T>(tx: &SyncSender<CallResult<T>>, outcome: CallResult<T>) {
    // The caller may have given up.
    let _ = tx.try_send(outcome);
}

/// Passes `job` to the thread. Starts one if there is none.
fn send(jobs: &mut Option<mpsc::Sender<Job>>, job: Job) -> Result<(), FsCallError> {
    let Some(thread) = jobs.as_ref() else { return start(jobs, job) };
    match thread.send(job) {
        Ok(()) => Ok(()),
        // The thread has ended. The job comes back with the error, and is not lost.
        Err(mpsc::SendError(job)) => start(jobs, job),
    }
}

fn start(jobs: &mut Option<mpsc::Sender<Job>>, job: Job) -> Result<(), FsCallError> {
    let (tx, rx) = mpsc::channel::<Job>();
    // Sent before the thread starts: `rx` lives on in this function, so the send cannot fail.
    tx.send(job).map_err(|_| FsCallError::TooManyStuck)?;
    let run = move || rx.into_iter().for_each(|job| job());
    thread::Builder::new()
        .name("reader".into())
        .spawn(run)
        .map_err(|_| FsCallError::TooManyStuck)?;
    *jobs = Some(tx);
    Ok(())
}

/// The result of a call. `None` means that it made no progress for `still`, or took longer than
/// `max`.
fn await_result<T>(
    rx: &mpsc::Receiver<CallResult<T>>,
    progress: &ReadProgress,
    still: Duration,
    max: Duration,
) -> Option<CallResult<T>> {
    let began = Instant::now();
    loop {
        let read = progress.total();
        let wait = still.min(max.saturating_sub(began.elapsed()));
        match rx.recv_timeout(wait) {
            Ok(result) => return Some(result),
            // A slow file system that still moves bytes is not stuck.
            Err(RecvTimeoutError::Timeout) if progress.total() > read && began.elapsed() < max => {}
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quick() -> FsExecutor {
        FsExecutor::with_timeouts(Duration::from_millis(30), Duration::from_secs(10))
    }

    /// A call that returns once the sender is dropped.
    fn blocking(executor: &FsExecutor) -> (Result<(), FsCallError>, mpsc::Sender<()>) {
        let (release, blocked) = mpsc::channel::<()>();
        let call = move |_: &ReadProgress| while blocked.recv().is_ok() {};
        (executor.run(&mut executor.new_budget(), call), release)
    }

    fn until_none_is_stuck(executor: &FsExecutor) {
        let began = Instant::now();
        while executor.stuck() > 0 {
            assert!(began.elapsed() < Duration::from_secs(10), "{} are stuck", executor.stuck());
            thread::yield_now();
        }
    }

    #[test]
    fn a_call_returns_its_result() {
        let executor = quick();
        assert_eq!(executor.run(&mut executor.new_budget(), |_| 7), Ok(7));
        assert_eq!(executor.stuck(), 0);
    }

    #[test]
    fn stuck_call_is_abandoned_and_the_next_one_runs() {
        let executor = quick();
        let (result, release) = blocking(&executor);
        assert_eq!((result, executor.stuck()), (Err(FsCallError::Stuck), 1));
        assert_eq!(executor.run(&mut executor.new_budget(), |_| 7), Ok(7));
        drop(release);
        until_none_is_stuck(&executor);
    }

    #[tokio::test]
    async fn late_return_is_noted_when_no_caller_waits() {
        let executor = quick();
        let (_, release) = blocking(&executor);
        drop(release);
        until_none_is_stuck(&executor);
        executor.returned().await;
        let again = tokio::time::timeout(Duration::from_millis(20), executor.returned());
        assert!(again.await.is_err(), "once for each");
    }

    #[test]
    fn no_call_is_made_while_four_are_stuck() {
        let executor = quick();
        let stuck: Vec<_> = (0..MAX_STUCK_THREADS).map(|_| blocking(&executor)).collect();
        assert!(stuck.iter().all(|(result, _)| *result == Err(FsCallError::Stuck)));
        assert_eq!(executor.run(&mut executor.new_budget(), |_| 7), Err(FsCallError::TooManyStuck));
        drop(stuck);
        until_none_is_stuck(&executor);
        assert_eq!(executor.run(&mut executor.new_budget(), |_| 7), Ok(7));
    }

    #[test]
    fn slow_call_is_awaited_until_the_pass_ends() {
        let drip = |progress: &ReadProgress| {
            for _ in 0..20 {
                thread::sleep(Duration::from_millis(10));
                progress.add(1);
            }
        };
        let patient =
            FsExecutor::with_timeouts(Duration::from_millis(150), Duration::from_secs(10));
        assert_eq!(patient.run(&mut patient.new_budget(), drip), Ok(()));
        let hasty =
            FsExecutor::with_timeouts(Duration::from_millis(150), Duration::from_millis(40));
        let mut left = hasty.new_budget();
        assert_eq!(hasty.run(&mut left, drip), Err(FsCallError::Stuck));
        assert_eq!(hasty.run(&mut left, drip), Err(FsCallError::Stuck), "no time is left");
        until_none_is_stuck(&hasty);
    }

    #[test]
    fn panic_reaches_the_caller_and_the_thread_survives() {
        let executor = quick();
        let panics = || executor.run(&mut executor.new_budget(), |_| resume_unwind(Box::new("no")));
        assert!(catch_unwind(AssertUnwindSafe(panics)).is_err());
        assert_eq!(executor.run(&mut executor.new_budget(), |_| 7), Ok(7));
    }
}
