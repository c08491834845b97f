//! The applier: one thread that moves commits from the log into the tables, compacts
//! history, and once a second tells watchers how far the store is.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tracing::{error, info, warn};

use super::tables::Tables;
use super::{EmbeddedOptions, Shared};
use crate::{Revision, StoreError};

const TICK: Duration = Duration::from_secs(1);

/// What others ask of the applier.
#[derive(Default)]
pub(super) struct Orders {
    pub(super) apply: bool,
    pub(super) stop: bool,
    pub(super) compactions: Vec<(Revision, oneshot::Sender<Result<(), StoreError>>)>,
}

pub(super) struct Applier {
    shared: Arc<Shared>,
    tables: Tables,
    options: EmbeddedOptions,
    compact_at: Option<Instant>,
    /// What the next regular compaction keeps from.
    compact_to: Revision,
    target: Revision,
    waiting: Vec<(Revision, oneshot::Sender<Result<(), StoreError>>)>,
    was_spilled: bool,
}

impl Applier {
    pub(super) fn new(shared: Arc<Shared>, tables: Tables, options: EmbeddedOptions) -> Self {
        let compact_at = options.compact_every.map(|every| Instant::now() + every);
        let compact_to = shared.state.lock().revision;
        Applier {
            shared,
            tables,
            options,
            compact_at,
            compact_to,
            target: 0,
            waiting: Vec::new(),
            was_spilled: false,
        }
    }

    /// Runs until it is told to stop; then everything is in the tables if there is room.
    pub(super) fn run(mut self) {
        let mut told = Instant::now();
        loop {
            let orders = self.shared.next_orders(TICK);
            if told.elapsed() >= TICK {
                told = Instant::now();
                self.shared.state.lock().tell_progress();
            }
            self.plan_compaction(orders.compactions);
            if let Err(error) = self.step(orders.apply || orders.stop) {
                error!(path = %self.shared.path.display(), %error, "the tables cannot be written");
                self.shared.fail(&error);
            }
            if orders.stop {
                self.shared.state.lock().close();
                return;
            }
        }
    }

    fn step(&mut self, now: bool) -> Result<(), StoreError> {
        let compacting = self.target > self.shared.state.lock().snapshot.compacted;
        if self.settle()? && (now || compacting || self.is_due()) {
            self.apply()?;
            self.settle()?;
        }
        if compacting { self.compact() } else { Ok(()) }
    }

    fn is_due(&self) -> bool {
        let (bytes, since) = self.shared.state.lock().backlog();
        bytes >= self.options.apply_bytes
            || since.is_some_and(|since| since.elapsed() >= self.options.apply_after)
    }

    fn apply(&self) -> Result<(), StoreError> {
        let records = self.shared.state.lock().unapplied();
        if records.is_empty() {
            return Ok(());
        }
        self.tables.apply(&records)?;
        let snapshot = self.tables.snapshot()?;
        self.shared.state.lock().advance(snapshot);
        Ok(())
    }

    /// True when all that the tables were given is on the disk; then the log may forget it.
    fn settle(&mut self) -> Result<bool, StoreError> {
        let settled = self.tables.settle()?;
        if settled {
            let applied = self.shared.state.lock().snapshot.applied;
            self.shared.release(applied);
        }
        let path = self.shared.path.display();
        match (settled, self.was_spilled) {
            (false, false) => warn!(%path, "no space left for the tables; trying again"),
            (true, true) => info!(%path, "the tables have room again"),
            _ => {}
        }
        self.was_spilled = !settled;
        Ok(settled)
    }

    fn plan_compaction(
        &mut self,
        ordered: Vec<(Revision, oneshot::Sender<Result<(), StoreError>>)>,
    ) {
        for (revision, reply) in ordered {
            self.target = self.target.max(revision);
            self.waiting.push((revision, reply));
        }
        if let (Some(at), Some(every)) = (self.compact_at, self.options.compact_every)
            && Instant::now() >= at
        {
            self.compact_at = Some(Instant::now() + every);
            self.target = self.target.max(self.compact_to);
            self.compact_to = self.shared.state.lock().revision;
        }
    }

    /// One step of compaction; between the steps commits are applied.
    fn compact(&mut self) -> Result<(), StoreError> {
        let applied = self.shared.state.lock().snapshot.applied;
        let compacted = self.tables.compact(self.target.min(applied))?;
        let snapshot = self.tables.snapshot()?;
        self.shared.state.lock().advance(snapshot);
        for (revision, reply) in std::mem::take(&mut self.waiting) {
            if revision <= compacted {
                let _ = reply.send(Ok(()));
            } else {
                self.waiting.push((revision, reply));
            }
        }
        if compacted < self.target {
            self.shared.order(|orders| orders.apply = true);
        }
        Ok(())
    }
}
