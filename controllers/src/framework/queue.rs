//! The work queue: keys that want attention, each worked on by one worker at a time.
//!
//! [`WorkQueue`] is the pure part with time as input; [`Queue`] shares it between tasks.
//!
//! **Invariants:** a key waits at most once; a key that is added while it is worked on waits
//! again when that work is done; a failed key comes back after 5 ms, doubled with every
//! failure in a row up to 1000 s.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::metrics::METRICS;

const FIRST_DELAY: Duration = Duration::from_millis(5);
const LONGEST_DELAY: Duration = Duration::from_secs(1000);

/// The delay before try number `failures + 1`.
pub fn backoff(failures: u32) -> Duration {
    let factor = 2u32.saturating_pow(failures.min(30));
    FIRST_DELAY.saturating_mul(factor).min(LONGEST_DELAY)
}

/// Keys that wait, are worked on, or are due later.
#[derive(Debug)]
pub struct WorkQueue<K> {
    ready: VecDeque<K>,
    waiting: BTreeSet<K>,
    working: BTreeSet<K>,
    due: BTreeMap<(Instant, K), ()>,
    due_at: HashMap<K, Instant>,
    failures: HashMap<K, u32>,
}

impl<K> Default for WorkQueue<K> {
    fn default() -> Self {
        Self {
            ready: VecDeque::new(),
            waiting: BTreeSet::new(),
            working: BTreeSet::new(),
            due: BTreeMap::new(),
            due_at: HashMap::new(),
            failures: HashMap::new(),
        }
    }
}

impl<K: Ord + Hash + Clone> WorkQueue<K> {
    /// The key wants attention now. False: it waited already.
    pub fn add(&mut self, key: K) -> bool {
        if !self.waiting.insert(key.clone()) {
            return false;
        }
        if !self.working.contains(&key) {
            self.ready.push_back(key);
        }
        true
    }

    /// The key wants attention at a time; of several times the earliest counts.
    pub fn add_at(&mut self, key: K, at: Instant) {
        match self.due_at.get(&key) {
            Some(known) if *known <= at => return,
            Some(known) => {
                self.due.remove(&(*known, key.clone()));
            }
            None => {}
        }
        self.due_at.insert(key.clone(), at);
        self.due.insert((at, key), ());
    }

    /// A key to work on, which is then this worker's until [`WorkQueue::done`].
    pub fn take(&mut self, now: Instant) -> Option<K> {
        self.promote(now);
        let key = self.ready.pop_front()?;
        self.waiting.remove(&key);
        self.working.insert(key.clone());
        Some(key)
    }

    /// When the next delayed key is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.due.first_key_value().map(|((at, _), ())| *at)
    }

    /// The worker has finished with the key.
    pub fn done(&mut self, key: &K) {
        self.working.remove(key);
        if self.waiting.contains(key) {
            self.ready.push_back(key.clone());
        }
    }

    /// The work failed: the key comes back later. Returns the delay.
    pub fn retry(&mut self, key: K, now: Instant) -> Duration {
        let failures = self.failures.entry(key.clone()).or_default();
        let delay = backoff(*failures);
        *failures = failures.saturating_add(1);
        self.add_at(key, now + delay);
        delay
    }

    /// The work succeeded: the next failure is the first again.
    pub fn forget(&mut self, key: &K) {
        self.failures.remove(key);
    }

    /// How many times in a row the key has failed.
    pub fn failures(&self, key: &K) -> u32 {
        self.failures.get(key).copied().unwrap_or(0)
    }

    /// Keys that wait now.
    pub fn len(&self) -> usize {
        self.ready.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ready.is_empty()
    }

    fn promote(&mut self, now: Instant) {
        while let Some(entry) = self.due.first_entry() {
            if entry.key().0 > now {
                return;
            }
            let ((_, key), ()) = entry.remove_entry();
            self.due_at.remove(&key);
            self.add(key);
        }
    }
}

/// A work queue shared by sources and workers. Cheap to clone.
pub struct Queue<K> {
    shared: Arc<Shared<K>>,
}

struct Shared<K> {
    /// The controller's name, for the metrics.
    name: &'static str,
    keys: Mutex<Keys<K>>,
    wake: Notify,
}

struct Keys<K> {
    queue: WorkQueue<K>,
    /// Since when keys wait; those that came with the time are not here.
    since: HashMap<K, Instant>,
}

impl<K> Clone for Queue<K> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
        }
    }
}

impl<K: Ord + Hash + Clone> Queue<K> {
    /// The queue of a controller.
    pub fn new(name: &'static str) -> Self {
        let keys = Keys {
            queue: WorkQueue::default(),
            since: HashMap::new(),
        };
        Self {
            shared: Arc::new(Shared {
                name,
                keys: Mutex::new(keys),
                wake: Notify::new(),
            }),
        }
    }

    pub fn add(&self, key: K) {
        {
            let mut keys = self.shared.keys.lock();
            if keys.queue.add(key.clone()) {
                keys.since.insert(key, Instant::now());
                METRICS.added(self.shared.name, keys.queue.len());
            }
        }
        self.shared.wake.notify_one();
    }

    pub fn add_after(&self, key: K, delay: Duration) {
        let at = Instant::now() + delay;
        self.shared.keys.lock().queue.add_at(key, at);
        self.shared.wake.notify_one();
    }

    pub(crate) fn retry(&self, key: K) -> Duration {
        let delay = self.shared.keys.lock().queue.retry(key, Instant::now());
        METRICS.retried(self.shared.name);
        self.shared.wake.notify_one();
        delay
    }

    pub(crate) fn forget(&self, key: &K) {
        self.shared.keys.lock().queue.forget(key);
    }

    pub(crate) fn done(&self, key: &K) {
        self.shared.keys.lock().queue.done(key);
        self.shared.wake.notify_one();
    }

    /// Waits for a key. One task at a time takes keys from a queue.
    pub(crate) async fn take(&self) -> K {
        loop {
            let due = match self.try_take() {
                Ok(key) => return key,
                Err(due) => due,
            };
            match due {
                Some(at) => {
                    let _ = tokio::time::timeout_at(at.into(), self.shared.wake.notified()).await;
                }
                None => self.shared.wake.notified().await,
            }
        }
    }

    /// A key, or when the next one is due.
    fn try_take(&self) -> Result<K, Option<Instant>> {
        let name = self.shared.name;
        let mut keys = self.shared.keys.lock();
        let now = Instant::now();
        let Some(key) = keys.queue.take(now) else {
            return Err(keys.queue.poll_timeout());
        };
        let depth = keys.queue.len();
        let waited = match keys.since.remove(&key) {
            Some(since) => now.saturating_duration_since(since),
            None => {
                METRICS.added(name, depth);
                Duration::ZERO
            }
        };
        METRICS.taken(name, waited, depth);
        Ok(key)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn a_key_added_twice_is_worked_on_once() {
        let now = Instant::now();
        let mut queue = WorkQueue::default();
        queue.add("a");
        queue.add("a");
        assert_eq!(queue.take(now), Some("a"));
        assert_eq!(queue.take(now), None);
    }

    #[test]
    fn a_key_added_during_its_work_waits_until_that_is_done() {
        let now = Instant::now();
        let mut queue = WorkQueue::default();
        queue.add("a");
        queue.take(now);
        queue.add("a");
        assert_eq!(queue.take(now), None);
        queue.done(&"a");
        assert_eq!(queue.take(now), Some("a"));
        queue.done(&"a");
        assert_eq!(queue.take(now), None);
    }

    #[test]
    fn failures_back_off_from_5_ms_to_1000_s() {
        let delays: Vec<u64> = [0, 1, 2, 10, 17, 18, 40]
            .map(|n| backoff(n).as_millis() as u64)
            .to_vec();
        assert_eq!(delays, [5, 10, 20, 5120, 655_360, 1_000_000, 1_000_000]);
    }

    #[test]
    fn a_retried_key_comes_back_when_it_is_due_and_success_resets_the_delay() {
        let now = Instant::now();
        let mut queue = WorkQueue::default();
        assert_eq!(queue.retry("a", now), ms(5));
        assert_eq!(queue.take(now + ms(4)), None);
        assert_eq!(queue.take(now + ms(5)), Some("a"));
        queue.done(&"a");
        assert_eq!(queue.retry("a", now), ms(10));
        queue.forget(&"a");
        assert_eq!(queue.retry("a", now), ms(5));
    }

    #[test]
    fn of_several_delays_the_earliest_counts() {
        let now = Instant::now();
        let mut queue = WorkQueue::default();
        queue.add_at("a", now + ms(20));
        queue.add_at("a", now + ms(10));
        queue.add_at("a", now + ms(30));
        assert_eq!(queue.poll_timeout(), Some(now + ms(10)));
        assert_eq!(queue.take(now + ms(10)), Some("a"));
        assert_eq!(queue.poll_timeout(), None);
    }

    proptest! {
        /// Whatever the order of events, no key is with two workers, and none is lost.
        #[test]
        fn keys_are_serialized_and_none_is_lost(ops in prop::collection::vec((0u8..4, 0u8..4), 0..200)) {
            let start = Instant::now();
            let mut queue = WorkQueue::default();
            let mut working = BTreeSet::new();
            let mut wanted = BTreeSet::new();
            for (step, (op, key)) in ops.into_iter().enumerate() {
                let now = start + ms(step as u64);
                match op {
                    0 => { queue.add(key); wanted.insert(key); }
                    1 => { queue.add_at(key, now + ms(3)); wanted.insert(key); }
                    2 => if let Some(key) = queue.take(now) {
                        prop_assert!(working.insert(key), "two workers on {key}");
                        wanted.remove(&key);
                    },
                    _ => if working.remove(&key) { queue.done(&key); },
                }
            }
            for key in working { queue.done(&key); }
            let end = start + Duration::from_secs(3600);
            while let Some(key) = queue.take(end) { wanted.remove(&key); queue.done(&key); }
            prop_assert!(wanted.is_empty());
        }
    }
}
