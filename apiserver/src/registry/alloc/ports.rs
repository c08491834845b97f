//! Node ports.

use std::ops::RangeInclusive;

use rand::Rng;

use super::Taken;

/// Where node ports are.
pub(super) const RANGE: RangeInclusive<u16> = 30_000..=32_767;

/// The lower part of the range is left to those who choose.
const CHOSEN_BY_HAND: u16 = 86;

/// A free port of the upper part, else of the lower one.
pub(super) fn free(taken: &Taken, protocol: &'static str) -> Option<u16> {
    let start = RANGE.start() + CHOSEN_BY_HAND;
    let size = RANGE.end() - start + 1;
    let offset = rand::rng().random_range(0..size);
    let upper = (0..size).map(|i| start + (i + offset) % size);
    let lower = *RANGE.start()..start;
    upper
        .chain(lower)
        .find(|port| !taken.ports.contains_key(&(*port, protocol)))
}
