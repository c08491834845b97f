//! Pods that end again and again in one place are replaced ever more slowly.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use watch_cache::ObjectKey;

/// The delay before the second replacement.
const FIRST: Duration = Duration::from_secs(1);

/// When and how often pods of an owner ended in each of its places (a node, an ordinal).
pub struct Ended {
    longest: Duration,
    places: Mutex<HashMap<(ObjectKey, String), (u32, Instant)>>,
}

impl Ended {
    /// Delays double from a second up to `longest`.
    pub fn new(longest: Duration) -> Self {
        Self {
            longest,
            places: Mutex::default(),
        }
    }

    /// Counts a replacement that may be made now, or tells how long it has to wait. The first is
    /// made at once, and so is one after a long time of quiet.
    pub fn may_replace(
        &self,
        owner: &ObjectKey,
        place: &str,
        now: Instant,
    ) -> Result<(), Duration> {
        let mut places = self.places.lock();
        let slot = (owner.clone(), place.to_owned());
        let (count, last) = places.get(&slot).copied().unwrap_or((0, now));
        let since = now.saturating_duration_since(last);
        if count > 0 {
            let delay = FIRST.saturating_mul(2u32.saturating_pow(count - 1));
            let rest = delay.min(self.longest).saturating_sub(since);
            if !rest.is_zero() {
                return Err(rest);
            }
        }
        let quiet = since > self.longest * 2;
        places.insert(slot, (if quiet { 1 } else { count + 1 }, now));
        Ok(())
    }

    /// The owner is gone.
    pub fn forget(&self, owner: &ObjectKey) {
        self.places.lock().retain(|(known, _), _| known != owner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_replacement_is_made_at_once_and_later_ones_ever_later() {
        let (ended, owner) = (
            Ended::new(Duration::from_secs(3)),
            ObjectKey::new("ns", "set"),
        );
        let start = Instant::now();
        let at =
            |seconds: u64| ended.may_replace(&owner, "set-0", start + Duration::from_secs(seconds));
        let wait = |seconds: u64| Err(Duration::from_secs(seconds));
        assert_eq!(at(0), Ok(()));
        assert_eq!(at(0), wait(1));
        assert_eq!(at(1), Ok(()));
        assert_eq!(at(2), wait(1));
        assert_eq!(at(3), Ok(()));
        assert_eq!(at(4), wait(2));
        assert_eq!(at(20), Ok(()));
        assert_eq!(at(21), Ok(()));
        assert_eq!(ended.may_replace(&owner, "set-1", start), Ok(()));
    }
}
