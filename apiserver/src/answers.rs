//! Answers that are kept for a while: what a webhook said is not asked again with each request.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sha2::{Digest, Sha256};

/// More answers than this are not kept; a flood of questions must not take memory.
const KEPT: usize = 4096;

/// See the module's documentation. Questions are kept as digests, since tokens are secrets.
pub(crate) struct Answers<T> {
    kept: Mutex<HashMap<[u8; 32], (Instant, T)>>,
}

impl<T> Default for Answers<T> {
    fn default() -> Self {
        Answers {
            kept: Mutex::default(),
        }
    }
}

impl<T: Clone> Answers<T> {
    pub(crate) fn get(&self, question: &[u8], now: Instant) -> Option<T> {
        let mut kept = self.kept.lock();
        let key: [u8; 32] = Sha256::digest(question).into();
        match kept.get(&key) {
            Some((until, answer)) if *until > now => Some(answer.clone()),
            Some(_) => {
                kept.remove(&key);
                None
            }
            None => None,
        }
    }

    pub(crate) fn keep(&self, question: &[u8], answer: T, now: Instant, lifetime: Duration) {
        if lifetime.is_zero() {
            return;
        }
        let mut kept = self.kept.lock();
        if kept.len() >= KEPT {
            kept.retain(|_, (until, _)| *until > now);
        }
        if kept.len() >= KEPT {
            kept.clear();
        }
        kept.insert(Sha256::digest(question).into(), (now + lifetime, answer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_live_as_long_as_they_are_told_to() {
        let answers = Answers::default();
        let (start, minute) = (Instant::now(), Duration::from_secs(60));
        answers.keep(b"q", 1, start, minute);
        answers.keep(b"never", 2, start, Duration::ZERO);
        assert_eq!(answers.get(b"q", start + minute / 2), Some(1));
        assert_eq!(answers.get(b"q", start + minute), None);
        assert_eq!(answers.get(b"never", start), None);
    }

    #[test]
    fn a_flood_of_questions_takes_bounded_memory() {
        let answers = Answers::default();
        let now = Instant::now();
        for question in 0..3 * KEPT {
            answers.keep(&question.to_le_bytes(), (), now, Duration::from_secs(60));
        }
        assert!(answers.kept.lock().len() <= KEPT);
    }
}
