//! Brings the picture into the kernel: a backend, the change from one backend to another, and
//! the flows that a change leaves behind.

use std::time::{Duration, Instant};

use crate::backend::{Backend, BackendError, Desired, Outcome};
use crate::config::{Config, Mode};
use crate::flows::Keeper;
use crate::picture::Changes;

/// The kernel's side of the proxy, in the network namespace of the thread that made it. All
/// calls block, and must come from that namespace.
pub struct Applier {
    config: Config,
    mode: Mode,
    backend: Box<dyn Backend>,
    flows: Keeper,
    /// Backends that others have followed, and whose connections have not all ended.
    retiring: Vec<(Mode, Box<dyn Backend>)>,
    next_look: Instant,
    /// Nothing has been written yet.
    first: bool,
}

/// How often it is looked whether connections have ended.
const LOOK: Duration = Duration::from_secs(5);

impl Applier {
    /// Fails where the machine cannot do it; nothing is changed then.
    pub fn new(config: &Config, mode: Mode) -> Result<Self, BackendError> {
        Ok(Self {
            backend: crate::backend_of(mode, config)?,
            config: config.clone(),
            mode,
            flows: Keeper::new(),
            retiring: Vec::new(),
            next_look: Instant::now(),
            first: true,
        })
    }

    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Writes everything, with this backend from now on. At every instant there are rules that
    /// work: those of another backend are removed when the new ones are in the kernel.
    pub fn resync(&mut self, mode: Mode, desired: &Desired) -> Result<Outcome, BackendError> {
        let outcome = if mode == self.mode {
            let outcome = self.backend.resync(desired)?;
            if std::mem::take(&mut self.first) {
                remove_others(self.mode, &self.config);
            }
            outcome
        } else {
            self.switch(mode, desired)?
        };
        self.flows
            .replaced(&desired.services, &desired.service_cidrs, self.mode);
        Ok(outcome)
    }

    fn switch(&mut self, mode: Mode, desired: &Desired) -> Result<Outcome, BackendError> {
        let mut backend = crate::backend_of(mode, &self.config)?;
        let outcome = backend.resync(desired)?;
        // A packet that passed before the new rules were there must find the old ones still.
        kernel::flight::wait_for_packets_in_flight();
        // One of this mode that was on its way out is taken over as it is.
        self.retiring.retain(|(old, _)| *old != mode);
        let old = std::mem::replace(&mut self.backend, backend);
        tracing::info!(from = %self.mode, to = %mode, "the proxy's mode has changed");
        self.retiring.push((self.mode, old));
        self.mode = mode;
        self.first = false;
        self.retire();
        Ok(outcome)
    }

    fn retire(&mut self) {
        self.next_look = Instant::now() + LOOK;
        self.retiring
            .retain_mut(|(mode, backend)| match backend.retire() {
                Ok(done) => !done,
                Err(error) => {
                    tracing::warn!(%mode, %error, "rules could not be removed, it is tried again");
                    true
                }
            });
    }

    /// Writes what changed since the last call that succeeded.
    pub fn apply(&mut self, changes: &Changes) -> Result<Outcome, BackendError> {
        let outcome = self.backend.apply(changes)?;
        self.flows.changed(changes);
        Ok(outcome)
    }

    /// Whether the kernel still holds what was written. Cheap where nothing has changed.
    pub fn intact(&mut self) -> Result<bool, BackendError> {
        let now = Instant::now();
        self.flows.tick(now);
        if !self.retiring.is_empty() && self.next_look <= now {
            self.retire();
        }
        self.backend.intact()
    }

    /// Removes everything of the backend.
    pub fn cleanup(&mut self) -> Result<(), BackendError> {
        for (_, backend) in &mut self.retiring {
            backend.cleanup()?;
        }
        self.retiring.clear();
        self.backend.cleanup()
    }
}

/// Removes what another mode left on this machine before a restart.
fn remove_others(mode: Mode, config: &Config) {
    for other in Mode::ALL.into_iter().filter(|other| *other != mode) {
        if let Err(error) = crate::cleanup(other, config) {
            tracing::warn!(%error, "what another mode left is still there");
        }
    }
}
