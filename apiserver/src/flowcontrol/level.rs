//! One priority level: its seats, and the queues before them.
//!
//! A flow is dealt a hand of queues and waits in the shortest of them, so that a flow that fills
//! its queues does not stand before everybody. Free seats go to the queues in turns. Seats that
//! other levels do not use are lent, as far as both levels allow it.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use serde_json::Value;
use tokio::sync::oneshot;

/// What a level may use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Limits {
    /// Everything runs at once.
    pub(super) exempt: bool,
    pub(super) seats: u32,
    /// Seats that others may use while they are free.
    pub(super) lends: u32,
    /// Seats of others that may be used at most.
    pub(super) borrows: u32,
    /// None: who finds no seat is turned away.
    pub(super) queues: Option<Queueing>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Queueing {
    pub(super) queues: usize,
    pub(super) hand: usize,
    pub(super) length: usize,
}

impl Limits {
    /// Name, uid and limits of all levels; the seats are shared out by their shares.
    pub(super) fn all(levels: &[Value], total: u32) -> Vec<(String, String, Limits)> {
        let part = |level: &Value| {
            let spec = &level["spec"];
            let own = if spec["type"] == "Exempt" {
                "exempt"
            } else {
                "limited"
            };
            let default = if own == "exempt" { 0 } else { 30 };
            let part = spec[own].clone();
            let shares = part["nominalConcurrencyShares"].as_u64().unwrap_or(default);
            (own == "exempt", part, shares)
        };
        let sum: u64 = levels.iter().map(|l| part(l).2).sum();
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        levels
            .iter()
            .map(|level| {
                let (exempt, part, shares) = part(level);
                let seats = if sum == 0 {
                    0
                } else {
                    (u64::from(total) * shares).div_ceil(sum)
                };
                let seats = u32::try_from(seats).unwrap_or(u32::MAX);
                let percent = |field: &str| part[field].as_u64();
                let of = |percent: u64| {
                    u32::try_from((u64::from(seats) * percent + 50) / 100).unwrap_or(u32::MAX)
                };
                let metadata = &level["metadata"];
                let limits = Limits {
                    exempt,
                    seats,
                    lends: of(percent("lendablePercent").unwrap_or(0)),
                    borrows: percent("borrowingLimitPercent").map_or(total, of),
                    queues: queueing(&part["limitResponse"]),
                };
                (text(&metadata["name"]), text(&metadata["uid"]), limits)
            })
            .collect()
    }
}

fn queueing(response: &Value) -> Option<Queueing> {
    if response["type"] != "Queue" {
        return None;
    }
    let number = |field: &str, default: u64| {
        let given = response["queuing"][field].as_u64().unwrap_or(default);
        usize::try_from(given.max(1)).unwrap_or(1)
    };
    let queues = number("queues", 64);
    Some(Queueing {
        queues,
        hand: number("handSize", 8).min(queues),
        length: number("queueLengthLimit", 50),
    })
}

/// Why a request may not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Rejected {
    #[error("queue-full")]
    QueueFull,
    #[error("concurrency-limit")]
    NoSeat,
    #[error("time-out")]
    TimeOut,
}

/// Seats that are taken until this is dropped.
pub(crate) struct Seats {
    level: Option<Arc<Level>>,
    width: u32,
}

impl Seats {
    /// For requests that need none.
    pub(crate) fn free() -> Self {
        Seats {
            level: None,
            width: 0,
        }
    }
}

impl Drop for Seats {
    fn drop(&mut self) {
        if let Some(level) = self.level.take() {
            level.leave(self.width);
        }
    }
}

/// See the module's documentation.
pub(super) struct Level {
    pub(super) uid: String,
    state: Mutex<State>,
    others: RwLock<Vec<Weak<Level>>>,
}

#[derive(Default)]
struct State {
    limits: Limits,
    used: u32,
    queues: Vec<VecDeque<Waiting>>,
    /// The queue whose turn it is.
    turn: usize,
}

struct Waiting {
    width: u32,
    go: oneshot::Sender<()>,
}

impl Level {
    pub(super) fn new(uid: String) -> Self {
        Level {
            uid,
            state: Mutex::default(),
            others: RwLock::default(),
        }
    }

    pub(super) fn set(&self, limits: Limits) {
        let mut state = self.state.lock();
        let queues = limits.queues.map_or(0, |q| q.queues);
        while state.queues.len() < queues {
            state.queues.push(VecDeque::new());
        }
        state.limits = limits;
    }

    /// The levels that seats are borrowed of.
    pub(super) fn meet(&self, others: Vec<Weak<Level>>) {
        *self.others.write() = others;
    }

    /// Seats that this level does not use and lends.
    fn lendable(&self) -> u32 {
        let state = self.state.lock();
        let free = state.limits.seats.saturating_sub(state.used);
        free.min(state.limits.lends)
    }

    /// Seats of the others that are free now. Nobody's lock is held meanwhile.
    fn borrowable(&self) -> u32 {
        let others: Vec<_> = self
            .others
            .read()
            .iter()
            .filter_map(Weak::upgrade)
            .collect();
        others.iter().map(|level| level.lendable()).sum()
    }

    pub(super) async fn enter(
        self: &Arc<Self>,
        flow: u64,
        width: u32,
        patience: Duration,
    ) -> Result<Seats, Rejected> {
        let borrowable = self.borrowable();
        let waiting = {
            let mut state = self.state.lock();
            if state.limits.exempt {
                return Ok(Seats::free());
            }
            // Nothing is wider than its level, or it would never run.
            let width = width.clamp(1, state.limits.seats.max(1));
            if state.is_idle() && state.has_room(width, borrowable) {
                state.used += width;
                return Ok(self.seats(width));
            }
            (state.queue(flow, width)?, width)
        };
        let (go, width) = waiting;
        // A seat may have been given up between the look at the others and the queue.
        self.dispatch();
        let mut turn = Turn {
            level: self,
            width,
            go: Some(go),
        };
        match tokio::time::timeout(patience, turn.wait()).await {
            Ok(true) => Ok(self.seats(width)),
            _ => Err(Rejected::TimeOut),
        }
    }

    fn seats(self: &Arc<Self>, width: u32) -> Seats {
        Seats {
            level: Some(self.clone()),
            width,
        }
    }

    fn leave(&self, width: u32) {
        {
            let mut state = self.state.lock();
            state.used = state.used.saturating_sub(width);
        }
        self.dispatch();
        // Who borrowed of this level may go on as well.
        let others: Vec<_> = self
            .others
            .read()
            .iter()
            .filter_map(Weak::upgrade)
            .collect();
        for level in others {
            if !level.state.lock().is_idle() {
                level.dispatch();
            }
        }
    }

    /// Lets those go whose turn it is, while there are seats.
    fn dispatch(&self) {
        let borrowable = self.borrowable();
        self.state.lock().dispatch(borrowable);
    }
}

/// Waits for its turn; whoever stops waiting after it came gives the seats back.
struct Turn<'a> {
    level: &'a Arc<Level>,
    width: u32,
    go: Option<oneshot::Receiver<()>>,
}

impl Turn<'_> {
    async fn wait(&mut self) -> bool {
        let Some(go) = self.go.as_mut() else {
            return false;
        };
        let came = go.await.is_ok();
        self.go = None;
        came
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(mut go) = self.go.take() {
            go.close();
            if go.try_recv().is_ok() {
                self.level.leave(self.width);
            }
        }
    }
}

impl State {
    fn is_idle(&self) -> bool {
        self.queues.iter().all(VecDeque::is_empty)
    }

    fn has_room(&self, width: u32, borrowable: u32) -> bool {
        let borrowed = borrowable.min(self.limits.borrows);
        self.used.saturating_add(width) <= self.limits.seats.saturating_add(borrowed)
    }

    /// The shortest queue of the flow's hand.
    fn queue(&mut self, flow: u64, width: u32) -> Result<oneshot::Receiver<()>, Rejected> {
        let queueing = self.limits.queues.ok_or(Rejected::NoSeat)?;
        for queue in &mut self.queues {
            queue.retain(|waiting| !waiting.go.is_closed());
        }
        let hand = deal(flow, queueing.queues, queueing.hand);
        let chosen = hand.into_iter().min_by_key(|at| self.queues[*at].len());
        let queue = chosen.and_then(|at| self.queues.get_mut(at));
        let queue = queue.ok_or(Rejected::NoSeat)?;
        if queue.len() >= queueing.length {
            return Err(Rejected::QueueFull);
        }
        let (go, turn) = oneshot::channel();
        queue.push_back(Waiting { width, go });
        Ok(turn)
    }

    fn dispatch(&mut self, borrowable: u32) {
        let count = self.queues.len();
        let mut empty = 0;
        while empty < count {
            let at = self.turn % count;
            let Some(first) = self.queues[at].front() else {
                self.turn = (at + 1) % count;
                empty += 1;
                continue;
            };
            let width = first.width;
            if !self.has_room(width, borrowable) {
                return;
            }
            self.turn = (at + 1) % count;
            empty = 0;
            let gone = self.queues[at].pop_front().map(|first| first.go.send(()));
            if matches!(gone, Some(Ok(()))) {
                self.used += width;
            }
        }
    }
}

/// A hand of different queues, the same for the same flow.
fn deal(flow: u64, queues: usize, hand: usize) -> Vec<usize> {
    let mut left: Vec<usize> = (0..queues).collect();
    let mut random = flow;
    (0..hand.min(queues))
        .map(|_| {
            // The generator splitmix64: any good mixing of bits does.
            random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = random;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^= mixed >> 31;
            let at = usize::try_from(mixed % left.len() as u64).unwrap_or(0);
            left.swap_remove(at)
        })
        .collect()
}
