//! Which program has to be started when. Pure: the clock is an argument.

use std::time::{Duration, Instant};

use super::specification::{Program, Running};

/// A program that ends is started again after this long; one that keeps ending waits longer.
const FIRST_DELAY: Duration = Duration::from_millis(500);
const LONGEST_DELAY: Duration = Duration::from_secs(10);
/// One that ran for so long ended for a new reason.
const STEADY: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// To be started; `None`: at once.
    Waiting {
        until: Option<Instant>,
    },
    Running {
        pid: i32,
        since: Instant,
    },
}

#[derive(Debug, Clone)]
struct Entry {
    state: State,
    delay: Duration,
    starts: u32,
}

/// The programs of a place, by their index in its description.
#[derive(Debug, Clone)]
pub(super) struct Supervision {
    entries: Vec<Entry>,
}

impl Supervision {
    pub(super) fn new(programs: usize) -> Self {
        let entry = Entry {
            state: State::Waiting { until: None },
            delay: FIRST_DELAY,
            starts: 0,
        };
        Self {
            entries: vec![entry; programs],
        }
    }

    /// The programs to be started now.
    pub(super) fn due(&self, now: Instant) -> Vec<usize> {
        let is_due = |entry: &Entry| match entry.state {
            State::Waiting { until } => until.is_none_or(|until| until <= now),
            State::Running { .. } => false,
        };
        (0..self.entries.len())
            .filter(|index| is_due(&self.entries[*index]))
            .collect()
    }

    /// How long until something has to be started; `None` while everything runs.
    pub(super) fn next_look(&self, now: Instant) -> Option<Duration> {
        self.entries
            .iter()
            .filter_map(|entry| match entry.state {
                State::Waiting { until } => {
                    Some(until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now)))
                }
                State::Running { .. } => None,
            })
            .min()
    }

    pub(super) fn started(&mut self, index: usize, pid: i32, now: Instant) {
        let entry = &mut self.entries[index];
        entry.state = State::Running { pid, since: now };
        entry.starts += 1;
    }

    /// It cannot be started yet; look again then.
    pub(super) fn not_yet(&mut self, index: usize, until: Instant) {
        self.entries[index].state = State::Waiting { until: Some(until) };
    }

    /// A child ended. Whether it was one of the programs.
    pub(super) fn ended(&mut self, ended: i32, now: Instant) -> bool {
        let found = self.entries.iter_mut().find_map(|entry| match entry.state {
            State::Running { pid, since } if pid == ended => Some((entry, since)),
            _ => None,
        });
        let Some((entry, since)) = found else {
            return false;
        };
        if now.saturating_duration_since(since) >= STEADY {
            entry.delay = FIRST_DELAY;
        }
        entry.state = State::Waiting {
            until: Some(now + entry.delay),
        };
        entry.delay = (entry.delay * 2).min(LONGEST_DELAY);
        true
    }

    pub(super) fn running(&self, programs: &[Program]) -> Vec<Running> {
        self.entries
            .iter()
            .zip(programs)
            .filter_map(|(entry, program)| match entry.state {
                State::Running { pid, .. } => Some(Running {
                    role: program.role.clone(),
                    pid,
                    restarts: entry.starts.saturating_sub(1),
                }),
                State::Waiting { .. } => None,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_due_at_the_start_and_nothing_while_it_runs() {
        let now = Instant::now();
        let mut supervision = Supervision::new(2);
        assert_eq!(supervision.due(now), [0, 1]);
        supervision.started(0, 10, now);
        supervision.started(1, 11, now);
        assert!(supervision.due(now).is_empty());
        assert_eq!(supervision.next_look(now), None);
    }

    #[test]
    fn a_program_that_keeps_ending_waits_longer_each_time() {
        let mut now = Instant::now();
        let mut supervision = Supervision::new(1);
        let mut delays = Vec::new();
        for pid in 1..8 {
            supervision.started(0, pid, now);
            assert!(supervision.ended(pid, now));
            let delay = supervision.next_look(now).unwrap();
            delays.push(delay.as_millis());
            now += delay;
            assert_eq!(supervision.due(now), [0]);
        }
        assert_eq!(delays, [500, 1000, 2000, 4000, 8000, 10000, 10000]);
    }

    #[test]
    fn a_program_that_ran_steadily_starts_again_soon() {
        let now = Instant::now();
        let mut supervision = Supervision::new(1);
        supervision.started(0, 1, now);
        supervision.ended(1, now);
        supervision.started(0, 2, now);
        supervision.ended(2, now + STEADY);
        assert_eq!(supervision.next_look(now + STEADY), Some(FIRST_DELAY));
    }

    #[test]
    fn children_of_others_are_nobodys_business() {
        let mut supervision = Supervision::new(1);
        supervision.started(0, 1, Instant::now());
        assert!(!supervision.ended(99, Instant::now()));
    }
}
