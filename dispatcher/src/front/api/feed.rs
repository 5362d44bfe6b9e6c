//! What happens in a run, as events that any number of clients follow. Events are kept once, up to a
//! bound, and each client has a place among them: a slow one costs nothing but its place.

use ctrl_exec_protocol::json::{Json, Members};
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Events that are kept of one run, in bytes.
const WINDOW: usize = 4 << 20;
/// How long they are kept after its end, for those who come back.
const AFTER_END: Duration = Duration::from_secs(120);
/// Runs that have ended whose events are kept.
const MOST_ENDED: usize = 64;

/// The events of one run.
#[derive(Debug)]
pub struct Feed {
    /// Tells this feed from others of the same run.
    epoch: String,
    inner: Mutex<Inner>,
    readers: AtomicUsize,
    hub: Arc<Signal>,
}

#[derive(Debug, Default)]
struct Inner {
    events: VecDeque<Arc<str>>,
    /// The number of the first that is kept.
    first: u64,
    bytes: usize,
    ended: Option<Instant>,
}

/// What a client gets next.
#[derive(Debug, Eq, PartialEq)]
pub struct Piece {
    /// The events as they are sent.
    pub text: String,
    /// The place after them.
    pub next: u64,
    /// There will be no more.
    pub over: bool,
}

impl Feed {
    /// Adds an event.
    pub fn put(&self, kind: &str, data: &str) {
        let mut inner = lock(&self.inner);
        let number = inner.first + inner.events.len() as u64;
        let event: Arc<str> = event(&format!("{}.{number}", self.epoch), kind, data).into();
        inner.bytes += event.len();
        inner.events.push_back(event);
        while inner.bytes > WINDOW && inner.events.len() > 1 {
            if let Some(old) = inner.events.pop_front() {
                inner.bytes -= old.len();
                inner.first += 1;
            }
        }
        drop(inner);
        self.hub.raise();
    }

    /// Adds an event with an object.
    pub fn put_object(&self, kind: &str, data: &Members) {
        self.put(kind, &data.render());
    }

    /// There will be no more.
    pub fn end(&self) {
        lock(&self.inner).ended.get_or_insert_with(Instant::now);
        self.hub.raise();
    }

    /// The place after the event of this id; the beginning when it is of another feed.
    pub fn place_after(&self, id: Option<&str>) -> u64 {
        let number = id.and_then(|id| {
            let (epoch, number) = id.split_once('.')?;
            (epoch == self.epoch).then(|| number.parse::<u64>().ok())?
        });
        number.map_or(0, |number| number.saturating_add(1))
    }

    /// What comes after a place, about so many bytes of it.
    pub fn read(&self, place: u64, most: usize) -> Piece {
        let inner = lock(&self.inner);
        let end = inner.first + inner.events.len() as u64;
        let (mut text, mut next) = (String::new(), place.min(end));
        if next < inner.first {
            let missed = Members::of([("missed", Json::count(to_usize(inner.first - next)))]);
            text = event("", "missed", &missed.render());
            next = inner.first;
        }
        for event in inner.events.iter().skip(to_usize(next - inner.first)) {
            if !text.is_empty() && text.len() + event.len() > most {
                break;
            }
            text.push_str(event);
            next += 1;
        }
        Piece {
            text,
            next,
            over: inner.ended.is_some() && next == end,
        }
    }

    /// Somebody follows.
    pub fn join(&self) {
        self.readers.fetch_add(1, Ordering::SeqCst);
    }

    /// And no longer.
    pub fn leave(&self) {
        self.readers.fetch_sub(1, Ordering::SeqCst);
    }

    /// Whether anybody follows.
    pub fn is_followed(&self) -> bool {
        self.readers.load(Ordering::SeqCst) > 0
    }
}

/// An event as it is sent. `data` is JSON, which has no line ends.
fn event(id: &str, kind: &str, data: &str) -> String {
    let id = match id {
        "" => String::new(),
        id => format!("id: {id}\n"),
    };
    format!("{id}event: {kind}\ndata: {data}\n\n")
}

/// The feeds there are.
#[derive(Debug, Default)]
pub struct Hub {
    feeds: Mutex<HashMap<String, Arc<Feed>>>,
    signal: Arc<Signal>,
    /// Threads that put events.
    driving: AtomicUsize,
}

#[derive(Default)]
struct Signal {
    raised: AtomicBool,
    wake: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl Signal {
    fn raise(&self) {
        if !self.raised.swap(true, Ordering::SeqCst) {
            if let Some(wake) = self.wake.get() {
                wake();
            }
        }
    }
}

impl std::fmt::Debug for Signal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Signal").field(&self.raised).finish()
    }
}

impl Hub {
    /// What is called when events have come after the loop had looked at all.
    pub fn on_events(&self, wake: impl Fn() + Send + Sync + 'static) {
        // Set once, before anything is served.
        let _ = self.signal.wake.set(Box::new(wake));
    }

    /// The loop is about to look.
    pub fn seen(&self) {
        self.signal.raised.store(false, Ordering::SeqCst);
    }

    /// A new feed for a run, and whether it is new: there is one at a time.
    pub fn open(&self, reqid: &str) -> (Arc<Feed>, bool) {
        let mut feeds = lock(&self.feeds);
        if let Some(feed) = feeds.get(reqid) {
            return (Arc::clone(feed), false);
        }
        sweep(&mut feeds);
        let feed = Arc::new(Feed {
            epoch: ctrl_exec_host::random::hex_id().unwrap_or_else(|_| "0".to_owned()),
            inner: Mutex::default(),
            readers: AtomicUsize::new(0),
            hub: Arc::clone(&self.signal),
        });
        feeds.insert(reqid.to_owned(), Arc::clone(&feed));
        (feed, true)
    }

    /// Forgets the feed of a run.
    pub fn forget(&self, reqid: &str) {
        lock(&self.feeds).remove(reqid);
    }

    /// Counts a thread that puts events, unless there are `most` of them.
    pub fn drive(self: &Arc<Self>, most: usize) -> Option<Driving> {
        let before = self.driving.fetch_add(1, Ordering::SeqCst);
        let driving = Driving(Arc::clone(self));
        (before < most).then_some(driving)
    }
}

/// A thread that puts events, while this lives.
#[derive(Debug)]
pub struct Driving(Arc<Hub>);

impl Drop for Driving {
    fn drop(&mut self) {
        self.0.driving.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Drops the feeds of runs that have ended some time ago.
fn sweep(feeds: &mut HashMap<String, Arc<Feed>>) {
    let ended = |feed: &Feed| lock(&feed.inner).ended;
    feeds.retain(|_, feed| ended(feed).is_none_or(|at| at.elapsed() < AFTER_END));
    let mut old: Vec<(Instant, String)> = feeds
        .iter()
        .filter_map(|(reqid, feed)| Some((ended(feed)?, reqid.clone())))
        .collect();
    if old.len() > MOST_ENDED {
        old.sort();
        old.truncate(old.len() - MOST_ENDED);
        for (_, reqid) in old {
            feeds.remove(&reqid);
        }
    }
}

fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reader_has_its_place() {
        let hub = Hub::default();
        let (feed, new) = hub.open("r");
        assert!(new && !hub.open("r").1);
        for n in 0..3 {
            feed.put("ended", &n.to_string());
        }
        let piece = feed.read(0, 1);
        assert_eq!((piece.next, piece.over), (1, false));
        let id = piece
            .text
            .lines()
            .next()
            .and_then(|line| line.strip_prefix("id: "));
        assert_eq!(feed.place_after(id), 1);
        assert_eq!(feed.place_after(Some("other.1")), 0);
        let rest = feed.read(1, 1 << 20);
        assert!(rest.text.contains("data: 1\n\n") && rest.text.ends_with("data: 2\n\n"));
        feed.end();
        assert!(feed.read(3, 1).over);
        assert!(!feed.read(2, 1 << 20).text.is_empty());
        assert_eq!(feed.read(u64::MAX, 1).text, "");
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let hub = Hub::default();
        let (feed, _) = hub.open("r");
        let big = "x".repeat(1 << 20);
        for _ in 0..10 {
            feed.put("output", &big);
        }
        assert!(lock(&feed.inner).bytes <= WINDOW);
        let piece = feed.read(0, 1);
        assert!(piece.text.contains("{\"missed\":7}"), "{}", piece.text);
        assert_eq!(piece.next, 7);
    }
}
