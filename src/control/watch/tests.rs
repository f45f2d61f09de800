//! The watch on a fake kernel that does as a test says, and on the real one.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use notify::event::{
    AccessKind, AccessMode, CreateKind, DataChange, Event, EventKind, Flag, ModifyKind,
};
use notify::{Config, Error, ErrorKind, EventHandler, RecursiveMode, Watcher, WatcherKind};
use tokio::time::timeout;

use super::fs_watcher::EventCallback;
use super::*;

const SLOW: Duration = Duration::from_secs(30);

/// A kernel that does as a test says.
#[derive(Clone, Default)]
struct Kernel(Arc<State>);

#[derive(Default)]
struct State {
    tell: Mutex<Option<EventCallback>>,
    watched: Mutex<Vec<PathBuf>>,
    begun: AtomicUsize,
    refuses_instances: Mutex<bool>,
    refuses_watches: Mutex<bool>,
    /// Panics as notify does once its thread has ended.
    panics: Mutex<bool>,
}

impl Kernel {
    /// Watches `folder` by this kernel, after a first look.
    fn watching(&self, folder: &Path) -> FileWatch {
        let kernel = self.clone();
        let mut watching = FileWatch::with_maker(
            WatchMode::Auto,
            Arc::new(move |tell| {
                kernel.0.begun.fetch_add(1, Ordering::SeqCst);
                if *kernel.0.refuses_instances.lock().unwrap() {
                    return Err(Error::io(std::io::Error::from_raw_os_error(libc::EMFILE)));
                }
                *kernel.0.tell.lock().unwrap() = Some(tell);
                Ok(Box::new(kernel.clone()))
            }),
        );
        cover(&mut watching, folder);
        watching.note_read();
        watching
    }

    fn says(&self, kind: EventKind, path: impl Into<PathBuf>) {
        self.event(Event::new(kind).add_path(path.into()));
    }

    fn event(&self, event: Event) {
        if let Some(tell) = self.0.tell.lock().unwrap().as_mut() {
            tell(Ok(event));
        }
    }

    /// Ends the thread that reports events.
    fn dies(&self) {
        *self.0.tell.lock().unwrap() = None;
    }

    fn refuses_watches(&self, refuses: bool) {
        *self.0.refuses_watches.lock().unwrap() = refuses;
    }

    fn begun(&self) -> usize {
        self.0.begun.load(Ordering::SeqCst)
    }
}

impl Watcher for Kernel {
    fn new<F: EventHandler>(_: F, _: Config) -> notify::Result<Self> {
        unreachable!("it is made by Make")
    }

    fn watch(&mut self, path: &Path, _: RecursiveMode) -> notify::Result<()> {
        assert!(!*self.0.panics.lock().unwrap());
        if *self.0.refuses_watches.lock().unwrap() {
            return Err(Error::new(ErrorKind::MaxFilesWatch).add_path(path.into()));
        }
        self.0.watched.lock().unwrap().push(path.into());
        Ok(())
    }

    fn unwatch(&mut self, path: &Path) -> notify::Result<()> {
        self.0.watched.lock().unwrap().retain(|watched| watched != path);
        Ok(())
    }

    fn kind() -> WatcherKind {
        WatcherKind::NullWatcher
    }
}

fn cover(watching: &mut FileWatch, folder: &Path) {
    let file = folder.join("file");
    let turned =
        watching.reconfigure(WatchMode::Auto).apply(WatchSet::for_files([file.as_path()], []));
    watching.reconfigured(Some(turned));
}

/// The look that comes due within so many milliseconds. `None` means that none does.
async fn due(watching: &mut FileWatch, milliseconds: u64) -> Option<WakeReason> {
    timeout(Duration::from_millis(milliseconds), watching.due(SLOW)).await.ok()
}

fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let real = folder.path().canonicalize().unwrap();
    fs::write(real.join("file"), "1").unwrap();
    (folder, real)
}

const CREATED: EventKind = EventKind::Create(CreateKind::File);
const WRITING: EventKind = EventKind::Modify(ModifyKind::Data(DataChange::Any));
const CLOSED: EventKind = EventKind::Access(AccessKind::Close(AccessMode::Write));

#[tokio::test(start_paused = true)]
async fn change_is_due_after_a_quiet_interval() {
    let (_folder, real) = folder();
    let kernel = Kernel::default();
    let mut watching = kernel.watching(&real);
    kernel.says(CREATED, real.join("another"));
    kernel.says(EventKind::Access(AccessKind::Open(AccessMode::Any)), real.join("file"));
    assert_eq!(due(&mut watching, 29_900).await, None);
    kernel.says(CREATED, real.join("file"));
    let began = Instant::now();
    assert_eq!(due(&mut watching, 60).await, Some(WakeReason::Changed));
    assert!(began.elapsed() >= DEBOUNCE_INTERVAL);
    watching.note_read();
    assert_eq!(due(&mut watching, 29_900).await, None);
    assert_eq!(due(&mut watching, 200).await, Some(WakeReason::Due));
}

#[tokio::test(start_paused = true)]
async fn change_stays_due_when_another_event_comes() {
    let (_folder, real) = folder();
    let kernel = Kernel::default();
    let mut watching = kernel.watching(&real);
    kernel.says(CLOSED, real.join("file"));
    // As if `sidegate diff` were answered meanwhile.
    assert_eq!(due(&mut watching, 10).await, None);
    assert_eq!(due(&mut watching, 60).await, Some(WakeReason::Changed));
}

#[tokio::test(start_paused = true)]
async fn read_waits_for_a_writer_even_when_due() {
    let (_folder, real) = folder();
    let kernel = Kernel::default();
    let mut watching = kernel.watching(&real);
    assert_eq!(due(&mut watching, 29_980).await, None);
    let writes = async {
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_millis(15)).await;
            kernel.says(WRITING, real.join("file"));
        }
        kernel.says(CLOSED, real.join("file"));
    };
    let (why, ()) = tokio::join!(due(&mut watching, 1000), writes);
    assert_eq!(why, Some(WakeReason::Changed));
}

// C-RLD-07, F14
#[tokio::test(start_paused = true)]
async fn kernel_queue_overflow_is_a_change() {
    let (_folder, real) = folder();
    let kernel = Kernel::default();
    let mut watching = kernel.watching(&real);
    for _ in 0..10_000 {
        kernel.says(WRITING, real.join("file"));
    }
    kernel.event(Event::new(EventKind::Other).set_flag(Flag::Rescan));
    assert_eq!(due(&mut watching, 60).await, Some(WakeReason::Changed));
}

#[tokio::test(start_paused = true)]
async fn ended_watch_is_restarted_with_polling_meanwhile() {
    let (_folder, real) = folder();
    let kernel = Kernel::default();
    let mut watching = kernel.watching(&real);
    kernel.dies();
    assert_eq!(due(&mut watching, 1).await, Some(WakeReason::Due));
    watching.note_read();
    cover(&mut watching, &real);
    assert_eq!(
        (kernel.begun(), watching.failure()),
        (2, Some("the watch ended by itself and was begun again"))
    );
    watching.note_read();
    assert_eq!(due(&mut watching, 2100).await, Some(WakeReason::Due));
    watching.note_read();
    cover(&mut watching, &real);
    assert_eq!((kernel.begun(), watching.failure()), (2, None));
    kernel.says(CREATED, real.join("file"));
    assert_eq!(due(&mut watching, 60).await, Some(WakeReason::Changed));
}

#[tokio::test(start_paused = true)]
async fn repeatedly_ending_watch_restarts_at_the_poll_interval() {
    let (_folder, real) = folder();
    let kernel = Kernel::default();
    let mut watching = kernel.watching(&real);
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(20) {
        kernel.dies();
        watching.due(SLOW).await;
        watching.note_read();
        cover(&mut watching, &real);
    }
    assert!((8..=13).contains(&kernel.begun()), "{} times in 20 s", kernel.begun());
    assert!(watching.failure().is_some());
}

#[tokio::test(start_paused = true)]
async fn panicked_watcher_is_restarted() {
    let (_folder, real) = folder();
    let kernel = Kernel::default();
    let mut watching = kernel.watching(&real);
    *kernel.0.panics.lock().unwrap() = true;
    cover(&mut watching, &real);
    assert!(watching.failure().is_some());
    *kernel.0.panics.lock().unwrap() = false;
    cover(&mut watching, &real);
    assert_eq!((kernel.begun(), watching.failure()), (2, None));
    // After a panic in the thread that turned the watch, there is a new one.
    drop(watching.reconfigure(WatchMode::Auto));
    watching.reconfigured(None);
    assert!(watching.failure().is_some());
    cover(&mut watching, &real);
    assert_eq!((kernel.begun(), watching.failure()), (3, None));
}

#[tokio::test(start_paused = true)]
async fn change_waits_for_the_end_of_each_pause() {
    let (_folder, real) = folder();
    let kernel = Kernel::default();
    let mut watching = kernel.watching(&real);
    let pause = |seconds| (Instant::now() + Duration::from_secs(seconds), CancellationToken::new());
    let (first, second) = (pause(10), pause(20));
    watching.put_off(first.0, first.1.clone());
    watching.put_off(second.0, second.1.clone());
    kernel.says(CREATED, real.join("file"));
    assert_eq!(due(&mut watching, 5_000).await, None);
    // A command that has ended leaves the pause of another one in place.
    second.1.cancel();
    assert_eq!(due(&mut watching, 4_000).await, None);
    assert_eq!(due(&mut watching, 1_200).await, Some(WakeReason::Changed));
    watching.note_read();
    let third = pause(10);
    watching.put_off(third.0, third.1.clone());
    kernel.says(CREATED, real.join("file"));
    assert_eq!(due(&mut watching, 1_000).await, None);
    third.1.cancel();
    assert_eq!(due(&mut watching, 60).await, Some(WakeReason::Changed));
    for _ in 0..100 {
        watching.put_off(Instant::now() + MAX_DEBOUNCE_INTERVAL, third.1.clone());
    }
    assert_eq!(watching.paused.len(), 1, "pauses that have ended are forgotten");
    watching.resume();
    assert!(watching.paused.is_empty());
}

// C-RLD-08, F15
#[tokio::test(start_paused = true)]
async fn files_are_polled_while_the_kernel_has_no_watch_left() {
    let (_folder, real) = folder();
    let kernel = Kernel::default();
    kernel.refuses_watches(true);
    let mut watching = kernel.watching(&real);
    for _ in 0..3 {
        assert_eq!(watching.failure(), Some("the kernel has no inotify watch left for us"));
        assert_eq!(due(&mut watching, 1900).await, None);
        assert_eq!(due(&mut watching, 200).await, Some(WakeReason::Due));
        watching.note_read();
        cover(&mut watching, &real);
    }
    kernel.refuses_watches(false);
    cover(&mut watching, &real);
    assert_eq!(watching.failure(), None);
    // Changes before the watch existed were not seen, so a look comes at once.
    assert_eq!(due(&mut watching, 200).await, Some(WakeReason::Due));
}

// C-RLD-08, F15
#[tokio::test(start_paused = true)]
async fn files_are_polled_while_the_kernel_has_no_instance_left() {
    let (_folder, real) = folder();
    let kernel = Kernel::default();
    *kernel.0.refuses_instances.lock().unwrap() = true;
    let mut watching = kernel.watching(&real);
    assert_eq!(watching.failure(), Some("the kernel has no inotify instance left for us"));
    assert_eq!(due(&mut watching, 2100).await, Some(WakeReason::Due));
    *kernel.0.refuses_instances.lock().unwrap() = false;
    cover(&mut watching, &real);
    assert_eq!(watching.failure(), None);
}

#[tokio::test(start_paused = true)]
async fn recreated_folder_is_watched_in_place_of_the_old_one() {
    let (_folder, real) = folder();
    let kernel = Kernel::default();
    let inner = real.join("inner");
    fs::create_dir(&inner).unwrap();
    let mut watching = kernel.watching(&inner);
    fs::rename(&inner, real.join("former")).unwrap();
    fs::create_dir(&inner).unwrap();
    kernel.0.watched.lock().unwrap().push("mark".into());
    cover(&mut watching, &inner);
    // The former watch is removed first: notify has both under the same path.
    assert_eq!(*kernel.0.watched.lock().unwrap(), [PathBuf::from("mark"), inner]);
    assert_eq!(due(&mut watching, 200).await, Some(WakeReason::Due));
}

#[tokio::test(start_paused = true)]
async fn watch_mode_poll_polls_and_off_does_nothing() {
    let (_folder, real) = folder();
    let kernel = Kernel::default();
    let mut watching = kernel.watching(&real);
    for (mode, after) in
        [(WatchMode::Poll, Some(2000)), (WatchMode::Off, None), (WatchMode::Auto, Some(100))]
    {
        let turned = watching
            .reconfigure(mode)
            .apply(WatchSet::for_files([real.join("file").as_path()], []));
        watching.reconfigured(Some(turned));
        assert_eq!(watching.failure(), None);
        watching.looked = Instant::now();
        if let Some(after) = after {
            assert_eq!(due(&mut watching, after - 60).await, None, "{mode:?}");
            assert_eq!(due(&mut watching, 120).await, Some(WakeReason::Due), "{mode:?}");
        } else {
            assert_eq!(due(&mut watching, 3_600_000).await, None, "{mode:?}");
        }
        watching.note_read();
    }
}

/// Watches by the real kernel, after a first look at the files.
fn real_watching(folder: &Path) -> FileWatch {
    let mut watching = FileWatch::new(WatchMode::Auto);
    cover(&mut watching, folder);
    assert_eq!(watching.failure(), None);
    watching.note_read();
    watching
}

#[tokio::test]
async fn saved_file_is_a_change_and_a_read_file_is_none() {
    let (_folder, real) = folder();
    let mut watching = real_watching(&real);
    for _ in 0..100 {
        fs::read(real.join("file")).unwrap();
        fs::read_dir(&real).unwrap().count();
    }
    fs::write(real.join("neighbour"), "1").unwrap();
    assert_eq!(due(&mut watching, 300).await, None);
    fs::write(real.join("new"), "2").unwrap();
    fs::rename(real.join("new"), real.join("file")).unwrap();
    assert_eq!(due(&mut watching, 5000).await, Some(WakeReason::Changed));
}

#[tokio::test]
async fn end_of_the_event_thread_is_noticed() {
    let (_folder, real) = folder();
    let make: MakeWatcher = Arc::new(|mut tell: EventCallback| {
        let kernels = notify::recommended_watcher(move |event: notify::Result<Event>| {
            let fatal = event
                .as_ref()
                .is_ok_and(|event| event.paths.iter().any(|path| path.ends_with("fatal")));
            // Without the default panic hook, which would print.
            if fatal {
                std::panic::resume_unwind(Box::new("the end of notify's thread"));
            }
            tell(event);
        })?;
        Ok(Box::new(kernels))
    });
    let mut watching = FileWatch::with_maker(WatchMode::Auto, make);
    cover(&mut watching, &real);
    watching.note_read();
    fs::write(real.join("fatal"), "").unwrap();
    assert_eq!(due(&mut watching, 5000).await, Some(WakeReason::Due));
    fs::remove_file(real.join("fatal")).unwrap();
    cover(&mut watching, &real);
    assert_eq!(watching.failure(), Some("the watch ended by itself and was begun again"));
    cover(&mut watching, &real);
    watching.note_read();
    fs::write(real.join("file"), "2").unwrap();
    assert_eq!(
        (due(&mut watching, 5000).await, watching.failure()),
        (Some(WakeReason::Changed), None)
    );
}

#[tokio::test]
async fn removed_old_folder_does_not_end_the_watch_of_its_successor() {
    let (_folder, real) = folder();
    let inner = real.join("inner");
    fs::create_dir(&inner).unwrap();
    let mut watching = real_watching(&inner);
    fs::rename(&inner, real.join("former")).unwrap();
    fs::create_dir(&inner).unwrap();
    assert_eq!(due(&mut watching, 5000).await, Some(WakeReason::Changed));
    cover(&mut watching, &inner);
    fs::remove_dir_all(real.join("former")).unwrap();
    assert!(due(&mut watching, 300).await.is_some(), "what is watched anew is looked at at once");
    watching.note_read();
    fs::write(inner.join("file"), "2").unwrap();
    assert_eq!(due(&mut watching, 5000).await, Some(WakeReason::Changed));
}
