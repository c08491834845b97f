//! The thread that owns the kernel's side: it does one job at a time, and each job blocks.

use std::sync::mpsc;

use tokio::sync::oneshot;

use crate::applier::Applier;
use crate::backend::{BackendError, Desired, Outcome};
use crate::config::Mode;
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
    /// Starts the thread in the calling thread's network namespace.
    pub(crate) fn start(mut applier: Applier) -> Self {
        Self::with(move |job| perform(&mut applier, job))
    }

    /// Starts a thread that does jobs in this way.
    pub(crate) fn with(mut perform: impl FnMut(Job) -> Done + Send + 'static) -> Self {
        let (jobs, requests) = mpsc::channel::<Request>();
        let thread = std::thread::Builder::new().name("proxy-writer".to_owned());
        let started = thread.spawn(move || {
            for (job, answer) in requests {
                // Nobody waits for the answer only during shutdown.
                let _ = answer.send(perform(job));
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

fn perform(applier: &mut Applier, job: Job) -> Done {
    let result = match job {
        Job::Resync { mode, desired } => applier.resync(mode, &desired).map(Done::Written),
        Job::Apply { changes } => applier.apply(&changes).map(Done::Written),
        Job::Check => applier.intact().map(Done::Intact),
    };
    result.unwrap_or_else(Done::Failed)
}
