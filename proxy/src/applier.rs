//! Brings the picture into the kernel: a backend, the change from one backend to another, and
//! the flows that a change leaves behind.

use std::time::Instant;

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
    /// Nothing has been written yet.
    first: bool,
}

impl Applier {
    /// Fails where the machine cannot do it; nothing is changed then.
    pub fn new(config: &Config, mode: Mode) -> Result<Self, BackendError> {
        Ok(Self {
            backend: crate::backend_of(mode, config)?,
            config: config.clone(),
            mode,
            flows: Keeper::new(),
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
            .replaced(&desired.services, &desired.service_cidrs);
        Ok(outcome)
    }

    fn switch(&mut self, mode: Mode, desired: &Desired) -> Result<Outcome, BackendError> {
        let mut backend = crate::backend_of(mode, &self.config)?;
        let outcome = backend.resync(desired)?;
        let mut old = std::mem::replace(&mut self.backend, backend);
        tracing::info!(from = %self.mode, to = %mode, "the proxy's mode has changed");
        self.mode = mode;
        self.first = false;
        old.cleanup()?;
        Ok(outcome)
    }

    /// Writes what changed since the last call that succeeded.
    pub fn apply(&mut self, changes: &Changes) -> Result<Outcome, BackendError> {
        let outcome = self.backend.apply(changes)?;
        self.flows.changed(changes);
        Ok(outcome)
    }

    /// Whether the kernel still holds what was written. Cheap where nothing has changed.
    pub fn intact(&mut self) -> Result<bool, BackendError> {
        self.flows.tick(Instant::now());
        self.backend.intact()
    }

    /// Removes everything of the backend.
    pub fn cleanup(&mut self) -> Result<(), BackendError> {
        self.backend.cleanup()
    }
}

/// Removes what another mode left on this machine before a restart.
fn remove_others(mode: Mode, config: &Config) {
    for other in Mode::ALL.into_iter().filter(|other| *other != mode) {
        let removed = crate::backend_of(other, config).and_then(|mut backend| backend.cleanup());
        if let Err(error) = removed {
            tracing::debug!(%other, %error, "nothing of another mode was removed");
        }
    }
}
