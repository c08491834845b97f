//! The thread that owns the backend: it does one job at a time, and each job blocks.

use std::sync::mpsc;

use tokio::sync::oneshot;

use crate::backend::{Backend, BackendError, Desired, Outcome};
use crate::config::{Config, Mode};
use crate::picture::Changes;

/// What the thread is asked to do.
pub(crate) enum Job {
    /// Write everything, with this backend from now on.
    Resync { mode: Mode, desired: Desired },
    /// Write what changed.
    Apply { changes: Changes },
    /// Look whether somebody else changed what we wrote.
    Check,
}

/// What became of a job.
pub(crate) enum Done {
    Written(Outcome),
    Intact(bool),
    /// Nothing, or not all, was written.
    Failed(BackendError),
}

type Request = (Job, oneshot::Sender<Done>);

/// A handle on the thread; it ends with its handle, and leaves the kernel as it is.
pub(crate) struct Writer {
    jobs: mpsc::Sender<Request>,
}

impl Writer {
    /// Starts the thread in the calling thread's network namespace. The backend has been made
    /// already: a backend that cannot work is told of at once.
    pub(crate) fn start(config: Config, mode: Mode, backend: Box<dyn Backend>) -> Self {
        let (jobs, requests) = mpsc::channel::<Request>();
        let mut state = State {
            config,
            mode,
            backend,
            first: true,
        };
        let thread = std::thread::Builder::new().name("proxy-writer".to_owned());
        let started = thread.spawn(move || {
            for (job, answer) in requests {
                // Nobody waits for the answer only during shutdown.
                let _ = answer.send(state.perform(job));
            }
        });
        if let Err(error) = started {
            tracing::error!(%error, "no thread for the proxy's writer");
        }
        Self { jobs }
    }

    /// Hands over a job. The answer fails to come only if the thread is gone.
    pub(crate) fn submit(&self, job: Job) -> oneshot::Receiver<Done> {
        let (answer, done) = oneshot::channel();
        if self.jobs.send((job, answer)).is_err() {
            tracing::error!("the proxy's writer has ended");
        }
        done
    }
}

struct State {
    config: Config,
    mode: Mode,
    backend: Box<dyn Backend>,
    /// Nothing has been written yet.
    first: bool,
}

impl State {
    fn perform(&mut self, job: Job) -> Done {
        let result = match job {
            Job::Resync { mode, desired } => self.resync(mode, &desired).map(Done::Written),
            Job::Apply { changes } => self.backend.apply(&changes).map(Done::Written),
            Job::Check => self.backend.intact().map(Done::Intact),
        };
        result.unwrap_or_else(Done::Failed)
    }

    fn resync(&mut self, mode: Mode, desired: &Desired) -> Result<Outcome, BackendError> {
        if mode != self.mode {
            // The new rules come first: until the old ones are gone, both lead to back ends.
            let mut backend = crate::backend_of(mode, &self.config)?;
            let outcome = backend.resync(desired)?;
            let mut old = std::mem::replace(&mut self.backend, backend);
            tracing::info!(from = %self.mode, to = %mode, "the proxy's mode has changed");
            self.mode = mode;
            old.cleanup()?;
            return Ok(outcome);
        }
        let outcome = self.backend.resync(desired)?;
        if std::mem::take(&mut self.first) {
            crate::remove_others(self.mode, &self.config);
        }
        Ok(outcome)
    }
}
