//! Growing pauses between attempts.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

/// The first pause, as upstream.
pub const INITIAL: SignedDuration = SignedDuration::from_secs(10);
/// The longest pause, as upstream.
pub const LONGEST: SignedDuration = SignedDuration::from_secs(300);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    pause: SignedDuration,
    updated: Timestamp,
}

/// Pauses by name: 10 s, doubled with each failure up to 5 minutes, forgotten after twice
/// that time without one.
#[derive(Debug, Clone, Default)]
pub struct Backoff {
    entries: BTreeMap<String, Entry>,
}

impl Backoff {
    /// When the next attempt may be made after a failure at `failed`; a moment in the past
    /// or now means at once.
    pub fn allowed_at(&self, name: &str, failed: Timestamp) -> Timestamp {
        match self.entries.get(name) {
            Some(entry) if !Self::is_forgotten(entry, failed) => failed + entry.pause,
            _ => failed,
        }
    }

    /// The pause that stands for a name now.
    pub fn pause(&self, name: &str) -> SignedDuration {
        self.entries
            .get(name)
            .map_or(SignedDuration::ZERO, |entry| entry.pause)
    }

    /// An attempt is being made: the next failure waits longer.
    pub fn attempt(&mut self, name: &str, now: Timestamp) {
        let pause = match self.entries.get(name) {
            Some(entry) if !Self::is_forgotten(entry, now) => (entry.pause * 2).min(LONGEST),
            _ => INITIAL,
        };
        self.entries.insert(
            name.to_owned(),
            Entry {
                pause,
                updated: now,
            },
        );
    }

    pub fn forget(&mut self, name: &str) {
        self.entries.remove(name);
    }

    fn is_forgotten(entry: &Entry, at: Timestamp) -> bool {
        at.duration_since(entry.updated) > LONGEST * 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::at;

    #[test]
    fn pauses_double_to_the_longest_and_are_forgotten() {
        let mut backoff = Backoff::default();
        assert_eq!(
            backoff.allowed_at("c", at(0)),
            at(0),
            "the first restart is at once"
        );
        let mut now = 0;
        for expected in [10, 20, 40, 80, 160, 300, 300] {
            backoff.attempt("c", at(now));
            assert_eq!(backoff.allowed_at("c", at(now)), at(now + expected));
            now += expected;
        }
        assert_eq!(
            backoff.allowed_at("c", at(now + 601)),
            at(now + 601),
            "long runs forgive"
        );
        backoff.attempt("c", at(now + 601));
        assert_eq!(backoff.pause("c"), INITIAL);
    }
}
